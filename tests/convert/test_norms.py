"""Whatever `norm_layer` builds is converted, or is named with what it lacks."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from flax import nnx

import flaxblocks as fb
from flaxblocks.convert.keymap import key_map, layouts_of
from flaxblocks.create.build import abstract_model
from tests.support import equal_arrays, translate

ROWS = [[1, 16, 1, 1], [6, 24, 1, 2]]
TINY: dict[str, Any] = {"inverted_residual_setting": ROWS, "width_mult": 0.5, "num_classes": 3}
NORMS = {
    "batch_norm": "batch_norm",
    "group_norm": partial(fb.nn.GroupNorm, num_groups=4),
    "none": None,
    "without parameters": partial(fb.nn.BatchNorm, affine=False),
    "nnx.GroupNorm": partial(nnx.GroupNorm, num_groups=4),
    "nnx.LayerNorm": nnx.LayerNorm,
    "nnx.LayerNorm without a bias": partial(nnx.LayerNorm, use_bias=False),
    "nnx.InstanceNorm": nnx.InstanceNorm,
    "nnx.RMSNorm": nnx.RMSNorm,
}


# A row of TensorFlow's padding has no other weights than in that layout.
@pytest.mark.filterwarnings("ignore:transformers' mobilenet_v2 has norm_eps")
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_a_norm_is_converted_in_every_layout(norm):
    model = fb.create_model("mobilenet_v2", norm_layer=norm, **TINY)
    for layout in layouts_of(model):
        state = fb.to_torch(model, layout)
        other = fb.create_model("mobilenet_v2", weights=state, norm_layer=norm, rngs=1, **TINY)
        assert equal_arrays(fb.to_torch(other, layout), state)
        assert equal_arrays(translate(model, state, "timm")[0], fb.to_torch(model, "timm"))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (nnx.GroupNorm(4, num_groups=2, rngs=nnx.Rngs(0)), torch.nn.GroupNorm(2, 4)),
        (nnx.LayerNorm(4, rngs=nnx.Rngs(0)), torch.nn.LayerNorm(4)),
        (nnx.LayerNorm(4, use_bias=False, rngs=nnx.Rngs(0)), torch.nn.LayerNorm(4, bias=False)),
        (nnx.InstanceNorm(4, rngs=nnx.Rngs(0)), torch.nn.InstanceNorm2d(4, affine=True)),
        (nnx.RMSNorm(4, rngs=nnx.Rngs(0)), torch.nn.RMSNorm(4)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_flaxs_norms_have_the_names_of_their_counterparts(ours, theirs):
    assert fb.load_torch(ours, theirs.state_dict()).layout == "torch"
    assert list(fb.to_torch(ours)) == list(theirs.state_dict())


class Gain(nnx.Module):
    """A norm that only its user knows."""

    def __init__(self, num_features: int, *, dtype, param_dtype, rngs: nnx.Rngs):
        self.gain = nnx.Param(np.ones(num_features, param_dtype))

    def __call__(self, x):
        return x * self.gain[...]


class Named(Gain):
    """It says what PyTorch calls its variable."""

    layouts = {name: lambda _: [("gain", "weight")] for name in ("torchvision", "timm", "article")}


class Wrapped(nnx.Module):
    """Its variables lie in a layer of its own."""

    def __init__(self, num_features: int, **types):
        self.inner = nnx.LayerNorm(num_features, **types)

    def __call__(self, x):
        return self.inner(x)


class Shifted(nnx.LayerNorm):
    """A layer that is known, and a variable that is not."""

    def __init__(self, num_features: int, **types):
        super().__init__(num_features, **types)
        self.shift = nnx.Param(np.zeros(num_features, types["param_dtype"]))


class NamedShifted(Shifted):
    layouts = {name: lambda _: [("shift", "shift")] for name in ("torchvision", "timm", "article")}


@pytest.mark.parametrize(
    ("norm", "variable"), [(Gain, "gain"), (Wrapped, "inner"), (Shifted, "shift")]
)
def test_a_users_own_norm_is_named_with_what_it_lacks(norm, variable):
    model = fb.create_model("mobilenet_v2", norm_layer=norm, **TINY)
    known = fb.to_torch(fb.create_model("mobilenet_v2", **TINY))
    message = (
        rf"layout 'torchvision' of MobileNetV2 has no name for: .*; `{norm.__name__}` needs "
        rf"`layouts = {{'torchvision': lambda _: \[\('{variable}', .*\)\]}}`, and "
        "layout 'flax' needs none"
    )
    for convert in (
        lambda: fb.to_torch(model),
        lambda: fb.load_torch(model, known),
        lambda: fb.create_model("mobilenet_v2", weights=known, norm_layer=norm, **TINY),
        lambda: translate(model, known, "torchvision", "torchvision"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            convert()
        assert len(str(caught.value)) < 600
    native = fb.to_torch(model, "flax")
    other = fb.create_model("mobilenet_v2", weights=native, norm_layer=norm, rngs=1, **TINY)
    assert equal_arrays(fb.to_torch(other, "flax"), native)


@pytest.mark.parametrize(("norm", "name"), [(Named, "weight"), (NamedShifted, "shift")])
def test_a_users_own_norm_may_name_its_variables(norm, name):
    model = fb.create_model("mobilenet_v2", norm_layer=norm, **TINY)
    state = fb.to_torch(model)
    assert f"features.0.1.{name}" in state
    state[f"features.0.1.{name}"] += 2
    other = fb.create_model("mobilenet_v2", weights=state, norm_layer=norm, **TINY)
    assert equal_arrays(fb.to_torch(other), state)


def test_flaxs_batch_norm_in_a_users_own_block_is_named():
    class Own(nnx.Module):
        layouts = {"article": lambda _: [("norm", "0")]}

        def __init__(self):
            self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))

    with pytest.raises(
        ValueError, match=r"has no name for: norm.bias, .*: use `flaxblocks.nn.BatchNorm`$"
    ):
        key_map(Own(), "article")


def test_what_a_layout_itself_forgets_asks_nothing_of_the_layer():
    model = abstract_model("mobilenet_v2", **TINY)
    model.extra = fb.nn.BatchNorm(3)
    with pytest.raises(ValueError, match=r"'torchvision' of MobileNetV2 has no name for: [^;]*$"):
        key_map(model, "torchvision")
