"""EfficientNet by the numbers: published costs, settings of each library, both layouts, errors."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx

import flaxblocks as fb
from flaxblocks.blocks import SqueezeExcite
from flaxblocks.convert.keymap import key_map
from flaxblocks.create.build import abstract_model
from flaxblocks.inspect.summary import summarize
from flaxblocks.models import EfficientNet
from flaxblocks.models.efficientnet_rows import Stage
from flaxblocks.models.registry import find_model, model_entries
from flaxblocks.nn.activation import relu6, silu
from flaxblocks.nn.norm import BatchNorm
from flaxblocks.parity import relative_error
from flaxblocks.parity.calibration import calibrate
from flaxblocks.parity.oracle import import_torchvision
from tests.support import equal_arrays

NAMES = [entry.name for entry in model_entries() if entry.build is EfficientNet]
ONE_EACH = {"depth_mult": 0.01}  # one block a stage
SMALL = {"stages": [Stage("mbconv", 1, 3, 1, 32, 1), Stage("fused_mbconv", 4, 3, 2, 64, 2)]}

# torchvision's weight entries: image size, 10^9 multiply-adds
COSTS = {
    "efficientnet_b0": (224, 0.386),
    "efficientnet_b3": (300, 1.827),
    "efficientnet_v2_s": (384, 8.366),
}
# torchvision's rates before the head
DROPOUT = {
    "efficientnet_b0": 0.2,
    "efficientnet_b1": 0.2,
    "efficientnet_b2": 0.3,
    "efficientnet_b3": 0.3,
    "efficientnet_b4": 0.4,
    "efficientnet_b5": 0.4,
    "efficientnet_b6": 0.5,
    "efficientnet_b7": 0.5,
    "efficientnet_v2_s": 0.2,
    "efficientnet_v2_m": 0.3,
    "efficientnet_v2_l": 0.4,
}


def norms_of(model: nnx.Module) -> Iterator[BatchNorm]:
    return (m for _, m in nnx.iter_modules(model) if isinstance(m, BatchNorm))


def vectors_of(model: nnx.Module) -> Iterator[Any]:
    """Biases, and the parameters of norms."""
    return (leaf for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)) if len(leaf.shape) == 1)


@pytest.mark.parametrize("name", COSTS)
def test_published_multiply_adds_hold(name):
    size, billions = COSTS[name]
    model = abstract_model(name)
    total = sum(row.multiply_adds for row in summarize(model, (size, size)))
    total -= sum(vector.size for vector in vectors_of(model))  # torchvision counts products only
    assert round(total / 1e9, 3) == billions


@pytest.mark.parametrize("name", NAMES)
def test_each_librarys_norm_rates_and_padding(name):
    model = abstract_model(name, **ONE_EACH)
    is_large = name in ("efficientnet_b5", "efficientnet_b6", "efficientnet_b7")
    is_tensorflows = name.startswith("tf_")
    eps = 1e-3 if is_large or is_tensorflows or "_v2_" in name else 1e-5
    norms = {(norm.eps, norm.momentum) for norm in norms_of(model)}
    assert norms == {(eps, 0.01 if is_large else 0.1)}
    assert model.dropout.rate == DROPOUT.get(name, 0.0)
    convs = [model.stem.conv, *(block.conv.conv for block in model.blocks)]
    assert {conv.padding == "SAME" for conv in convs} == {is_tensorflows}


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_v2_s", "tf_efficientnet_b0"])
def test_blocks_are_dropped_as_their_library_drops_them(name):
    model = abstract_model(name, depth_mult=0.6)  # two blocks in some stages
    rates = {i: b.stochastic_depth.rate for i, b in enumerate(model.blocks) if b.stochastic_depth}
    residual = [i for i, block in enumerate(model.blocks) if block.residual and i > 0]
    peak = 0.2 if name in DROPOUT else 0.0
    assert rates == pytest.approx({i: peak * i / len(model.blocks) for i in residual if peak})


def test_a_block_is_dropped_at_its_share_of_the_rate():
    model = abstract_model("efficientnet_b0", stochastic_depth=0.4)
    rates = {i: b.stochastic_depth.rate for i, b in enumerate(model.blocks) if b.stochastic_depth}
    assert rates == pytest.approx({i: 0.4 * i / 16 for i in (2, 4, 6, 7, 9, 10, 12, 13, 14)})


def test_gates_are_as_wide_as_a_quarter_of_the_blocks_input():
    def gates(**config: Any) -> list[SqueezeExcite]:
        model = abstract_model("efficientnet_b0", **ONE_EACH, **config)
        return [block.squeeze_excite for block in model.blocks]

    def widths(**config: Any) -> list[int]:
        return [gate.reduce.out_features for gate in gates(**config)]

    assert widths() == [8, 4, 6, 10, 20, 28, 48]
    assert widths(squeeze_excite=0.5)[0] == 16
    assert widths(squeeze_excite=1e-3)[0] == 1
    assert {gate.activation for gate in gates()} == {silu}


def test_lite_scales_neither_its_ends_nor_has_it_gates():
    model = abstract_model("efficientnet_lite3")
    assert model.depths == (1, 3, 3, 5, 5, 6, 1)
    assert (model.stem.conv.out_features, model.num_features) == (32, 1280)
    assert all(block.squeeze_excite is None for block in model.blocks)
    assert {model.stem.activation, model.blocks[3].conv.activation} == {relu6}
    scaled = abstract_model("efficientnet_b3")
    assert scaled.depths == (2, 3, 3, 5, 5, 6, 2)
    assert (scaled.stem.conv.out_features, scaled.num_features) == (40, 1536)


def test_a_fused_block_that_does_not_expand_is_one_convolution():
    authors = abstract_model("efficientnet_v2_s", **ONE_EACH)
    timms = abstract_model("efficientnetv2_rw_s", **ONE_EACH)
    assert authors.blocks[0].project is None
    assert authors.blocks[0].residual
    assert timms.blocks[0].project.conv.kernel_size == (1, 1)
    assert authors.blocks[1].project is not None
    assert authors.blocks[0].squeeze_excite is authors.blocks[1].squeeze_excite is None
    assert authors.blocks[3].squeeze_excite is not None


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        # 1.2 times 16, 24, 40, 80, 112, 192, 320; 19.2 goes up: 16 is below 90% of it
        ("efficientnet_b3", [24, 32, 48, 96, 136, 232, 384]),
        # 1.2 times 16, 32, 48, 96, 112, 192
        ("tf_efficientnetv2_b3", [16, 40, 56, 112, 136, 232]),
    ],
)
def test_widths_are_rounded_as_each_series_does(name, widths):
    model = abstract_model(name, **ONE_EACH)
    last = [block.project or block.conv for block in model.blocks]
    assert [layer.conv.out_features for layer in last] == widths


@pytest.mark.parametrize(
    "name", ["efficientnet_b0", "efficientnet_lite0", "tf_efficientnetv2_b3", "efficientnetv2_rw_t"]
)
def test_feature_maps_are_timms(name):
    import timm

    with torch.device("meta"):
        wanted: Any = timm.create_model(name, features_only=True)
    ours = abstract_model(name).feature_info
    assert ours.channels() == wanted.feature_info.channels()
    assert ours.reduction() == wanted.feature_info.reduction()


def test_a_checkpoint_of_timm_fits_torchvisions_network():
    import timm

    import_torchvision()
    from torchvision import models

    theirs: Any = timm.create_model("efficientnet_b0", num_classes=5)
    calibrate(theirs, (4, 3, 64, 64))
    model = fb.create_model("efficientnet_b0", weights=theirs.state_dict())
    assert equal_arrays(fb.to_torch(model), {k: v.numpy() for k, v in theirs.state_dict().items()})
    other = models.get_model("efficientnet_b0", num_classes=5).eval()
    state = fb.to_torch(model, "torchvision")
    other.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    x = torch.randn(2, 3, 65, 47, dtype=torch.float64)
    with torch.no_grad():
        error = relative_error(other.double()(x).numpy(), theirs.double()(x).numpy())
    assert error < 1e-12  # float64: what differs is the order of roundings


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_v2_s"])
def test_torchvisions_layout_holds_for_timms_rows(name):
    import_torchvision()
    from torchvision import models

    with torch.device("meta"):
        wanted = models.get_model(name).state_dict()
    row = {"efficientnet_b0": "tf_efficientnet_b0", "efficientnet_v2_s": "tf_efficientnetv2_s"}
    entries = key_map(abstract_model(row[name]), "torchvision").by_foreign
    assert {key: entry.foreign_shape for key, entry in entries.items()} == {
        key: tuple(value.shape) for key, value in wanted.items()
    }
    assert list(entries) == list(wanted)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"stages": []}, "`stages`.*at least one row"),
        ({"stages": [("mbconv", 6, 3, 1, 16, 1)]}, "`stages` has row .*each must be a `Stage`"),
        ({"stages": [Stage("mb", 6, 3, 1, 16, 1)]}, "kind 'mb' in.*one of.*'fused_mbconv'"),
        ({"stages": [Stage("mbconv", 6, 3, 3, 16, 1)]}, "stride 3 in.*1 or 2"),
        ({"stages": [Stage("mbconv", 6, 3, 1, 16, 0)]}, "depth=0.*every number must be positive"),
        ({"width_mult": 0.0}, r"`width_mult` \(=0.0\) must be positive"),
        ({"depth_mult": -1.0}, r"`depth_mult` \(=-1.0\) must be positive"),
        ({"norm_eps": 0.0}, r"`norm_eps` \(=0.0\) must be positive"),
        ({"norm_momentum": 1.5}, r"`norm_momentum` \(=1.5\) must be a probability"),
        ({"squeeze_excite": -0.25}, r"`squeeze_excite` \(=-0.25\) must be positive"),
        ({"stem_width": 0}, r"`stem_width` \(=0\) must be an integer of at least 1"),
        ({"head_width": 0}, r"`head_width` \(=0\) must be an integer of at least 1"),
        ({"round_widths": "up"}, r"`round_widths` \(='up'\) must be one of"),
        ({"padding": "VALID"}, r"`padding` \(='VALID'\) must be one of None, 'SAME'"),
        ({"dropout": 1.5}, r"`dropout` \(=1.5\) must be a probability"),
        ({"stochastic_depth": -0.1}, r"`stochastic_depth` \(=-0.1\) must be a probability"),
        ({"num_classes": -1}, r"`num_classes` \(=-1\)"),
        ({"in_channels": 0}, r"`in_channels` \(=0\)"),
        ({"norm_layer": "batchnorm"}, r"`norm_layer` \(='batchnorm'\) must be one of"),
    ],
)
def test_a_wrong_argument_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        abstract_model("efficientnet_b0", **config)


def test_another_norm_has_its_own_settings():
    model = abstract_model("efficientnet_b0", norm_eps=1e-3, norm_layer="group_norm", **SMALL)
    assert not list(norms_of(model))
    model = abstract_model("efficientnet_b0", norm_eps=1e-3, norm_layer=BatchNorm, **SMALL)
    assert {norm.eps for norm in norms_of(model)} == {1e-5}


def test_reductions_count_a_stride_of_the_first_block():
    model = abstract_model("efficientnet_b0", stages=[Stage("mbconv", 1, 3, 2, 16, 1)])
    assert model.feature_info.module_name() == ["stem", "blocks.0"]
    assert model.feature_info.reduction() == [2, 4]


def test_parameters_are_drawn_as_torchvision_draws_them():
    wide = [Stage("mbconv", 6, 5, 1, 160, 2)]
    model = fb.create_model("efficientnet_b0", stages=wide, num_classes=400)
    vectors = [np.asarray(vector) for vector in vectors_of(model)]
    assert all((vector == 0).all() or (vector == 1).all() for vector in vectors)
    block = model.blocks[1]
    for conv in (block.conv.conv, block.squeeze_excite.expand, model.head_conv.conv):
        kernel = conv.kernel[...]
        fan_out = kernel[..., 0, 0].size * conv.out_features
        # 24,000 values or more: the deviation's own is 0.5% at most
        assert abs(float(kernel.std()) / (2 / fan_out) ** 0.5 - 1) < 0.02
    head = np.asarray(model.head.kernel[...])
    assert 0.999 / 20 < np.abs(head).max() <= 1 / 20  # U(-b, b), b = 400^-1/2
    assert abs(head.std() / (1 / 20 / 3**0.5) - 1) < 0.01


def test_every_row_says_what_its_library_calls_the_arguments():
    assert find_model("efficientnet_b0").oracle_arguments == {
        "stochastic_depth": "stochastic_depth_prob"
    }
    names = find_model("tf_efficientnet_b0").oracle_arguments
    assert names["dropout"] == "drop_rate"
    assert names["norm_eps"] == "bn_eps"
