"""What may stand in a source, and which modules a source may be for."""

import numpy as np
import pytest
import torch
from flax import nnx

import flaxblocks as fb
from tests.convert.conftest import CONFIG
from tests.support import equal_arrays as equal
from tests.support import translate


def test_a_fresh_model_speaks_the_layout_of_its_publisher():
    for features_only in (False, True):
        timm = fb.create_model("mobilenetv2_035", features_only=features_only)
        assert next(iter(fb.to_torch(timm))) == "conv_stem.weight"
    assert (
        next(iter(fb.to_torch(fb.create_model("mobilenet_v2", **CONFIG)))) == "features.0.0.weight"
    )


def test_a_norm_that_the_source_has_not_keeps_its_count(model, state):
    fb.load_torch(model, state)
    body = {key: value for key, value in state.items() if not key.startswith("features.0.1.")}
    report = fb.load_torch(model, body, strict=False)
    assert "features.0.1.num_batches_tracked" in report.missing
    assert not report.uncounted
    assert equal(fb.to_torch(model), state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": {"state_dict": s}, "optimizer": {}},
        lambda s: {f"module.{key}": value for key, value in s.items()},
        lambda s: {"weights": {f"module._orig_mod.{key}": value for key, value in s.items()}},
    ],
)
def test_a_training_checkpoint_in_memory_is_searched_as_a_file_is(model, state, wrap):
    fb.load_torch(model, wrap(state))
    assert equal(fb.to_torch(model), state)


def test_a_prefix_on_every_name_is_found_and_said(model, state):
    report = fb.load_torch(model, {f"net.body.{key}": value for key, value in state.items()})
    assert report.taken == "below 'net.body.'"
    assert equal(fb.to_torch(model), state)


def test_a_state_dict_halved_as_a_whole_loads(model, state):
    halved = {key: value.astype(np.float16) for key, value in state.items()}
    fb.load_torch(model, halved)
    assert equal(fb.to_torch(model), state)  # its values are small integers


def test_a_number_that_half_precision_cannot_hold_is_refused():
    layer = fb.nn.Linear(2, 1, param_dtype=np.float16, rngs=nnx.Rngs(0))
    state = {"weight": np.array([[1.0, 1e6]], np.float32), "bias": np.zeros(1, np.float32)}
    with pytest.raises(fb.ConversionError, match=r"weight holds 1000000.0, which .* float16"):
        fb.load_torch(layer, state)
    state["weight"][0, 1] = np.inf  # as it was
    fb.load_torch(layer, state)


TENSORS = {
    "bfloat16": lambda: torch.arange(4.0).reshape(1, 4).bfloat16(),
    "float8": lambda: torch.arange(4.0).reshape(1, 4).to(torch.float8_e5m2),
    "transposed": lambda: torch.arange(4.0).reshape(4, 1).T,
    "negated lazily": lambda: (
        torch.complex(torch.zeros(1, 4), -torch.arange(4.0)[None]).conj().imag
    ),
    "a parameter": lambda: torch.nn.Parameter(torch.arange(4.0)[None]),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_a_tensor_of_any_kind_is_read(kind):
    layer = fb.nn.Linear(4, 1, bias=False, rngs=nnx.Rngs(0))
    fb.load_torch(layer, {"weight": TENSORS[kind]()})
    np.testing.assert_array_equal(layer.kernel[...][:, 0], np.arange(4.0))


@pytest.mark.parametrize(
    "value",
    [torch.eye(4).to_sparse(), torch.empty(1, 4, device="meta"), [[1.0], [1.0, 2.0]]],
    ids=["sparse", "meta", "ragged"],
)
def test_what_is_no_array_is_refused_by_its_key(value):
    layer = fb.nn.Linear(4, 1, bias=False, rngs=nnx.Rngs(0))
    with pytest.raises(fb.ConversionError, match=r"^weight of the source is a "):
        fb.load_torch(layer, {"weight": value})


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            lambda: fb.nn.Conv(4, 6, 3, groups=2, rngs=nnx.Rngs(0)),
            torch.nn.Conv2d(4, 6, 3, groups=2),
        ),
        (lambda: fb.nn.Linear(4, 6, rngs=nnx.Rngs(0)), torch.nn.Linear(4, 6)),
        (lambda: fb.nn.BatchNorm(4), torch.nn.BatchNorm2d(4)),
        (lambda: fb.nn.GroupNorm(4, num_groups=2, rngs=nnx.Rngs(0)), torch.nn.GroupNorm(2, 4)),
    ],
    ids=["Conv", "Linear", "BatchNorm", "GroupNorm"],
)
def test_a_lone_layer_takes_the_state_dict_of_its_counterpart(ours, theirs):
    layer = ours()
    assert fb.load_torch(layer, theirs.state_dict()).layout == "torch"
    back = fb.to_torch(layer)
    assert list(back) == list(theirs.state_dict())
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in back.items()})


def test_a_shared_layer_has_all_its_names_in_pytorch():
    conv, torch_conv = fb.nn.Conv(4, 4, 1, rngs=nnx.Rngs(0)), torch.nn.Conv2d(4, 4, 1)
    from torch_ref.blocks import ResidualAdd

    block, twin = fb.blocks.ResidualAdd(conv, conv), ResidualAdd(torch_conv, torch_conv)
    assert fb.load_torch(block, twin.state_dict()).loaded == 2
    assert equal(fb.to_torch(block), {k: v.numpy() for k, v in twin.state_dict().items()})
    torn = {k: v.clone() for k, v in twin.state_dict().items()}
    torn["shortcut.bias"] += 1
    for read in (fb.load_torch, lambda *torn: translate(*torn, to="flax")):
        with pytest.raises(fb.ConversionError, match=r"shortcut.bias is another name of a var"):
            read(block, {k: v.numpy() for k, v in torn.items()})


class Scaled(nnx.Module):
    """A variable of its own beside a layer."""

    layouts = {"article": lambda _: [("gamma", "layer_scale"), ("conv", "conv")]}

    def __init__(self):
        self.conv = fb.nn.Conv(2, 3, 1, rngs=nnx.Rngs(0))
        self.gamma = nnx.Param(np.ones((3,), np.float32))


def test_a_variable_of_the_block_itself_has_a_name_too():
    block = Scaled()
    state = fb.to_torch(block)
    assert list(state) == ["layer_scale", "conv.weight", "conv.bias"]
    fb.load_torch(block, {key: value + 1 for key, value in state.items()})
    np.testing.assert_array_equal(block.gamma[...], 2)
