"""RegNet by the numbers: the rule of the widths, both layouts, the start, errors."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import flaxblocks as fb
from flaxblocks.convert.keymap import key_map
from flaxblocks.create.build import abstract_model
from flaxblocks.models.registry import find_model, model_entries
from flaxblocks.models.regnet import RegNet, Stage, quantized_linear_stages
from flaxblocks.parity import relative_error
from flaxblocks.parity.calibration import calibrate

ROWS = {entry.name: entry for entry in model_entries() if entry.build is RegNet}
LINE = ("depth", "w_0", "w_a", "w_m", "group_width")
SMALL = {"depth": 5, "w_0": 16, "w_a": 10.0, "w_m": 2.0, "group_width": 8}


def torchvisions_stages(**line: Any) -> list[tuple[int, int, int]]:
    from torchvision.models.regnet import BlockParams

    found = BlockParams.from_init_params(**line)
    return list(zip(found.depths, found.widths, found.group_widths, strict=True))


def line_of(config: Any) -> dict[str, Any]:
    return {name: config[name] for name in LINE}


@pytest.mark.parametrize("entry", ROWS.values(), ids=lambda entry: entry.name)
def test_the_rule_gives_each_row_torchvisions_stages(entry):
    line = line_of(entry.config)
    assert list(quantized_linear_stages(**line)) == torchvisions_stages(**line)


def test_the_rule_is_torchvisions_off_the_table_too():
    random = np.random.default_rng(0)
    for _ in range(200):
        line = {
            "depth": int(random.integers(1, 40)),
            "w_0": 8 * int(random.integers(1, 60)),
            "w_a": round(float(random.uniform(0, 200)), 2),
            "w_m": round(float(random.uniform(1.5, 3)), 2),
            "group_width": int(random.choice([1, 8, 16, 24, 56, 112, 264])),
            "bottleneck_multiplier": float(random.choice([0.5, 1.0, 2.0])),
        }
        assert list(quantized_linear_stages(**line)) == torchvisions_stages(**line), line


def test_the_papers_regnetx_3_2gf():
    # Figure 15: d_i = [2, 6, 15, 2], w_i = [96, 192, 432, 1008], g = 48
    stages = quantized_linear_stages(25, 88, 26.31, 2.25, 48)
    assert stages == (Stage(2, 96, 48), Stage(6, 192, 48), Stage(15, 432, 48), Stage(2, 1008, 48))


def gate_biases(model: Any) -> list[Any]:
    gates = [block.squeeze_excite for block in model.blocks if block.squeeze_excite is not None]
    return [conv.bias for gate in gates for conv in (gate.reduce, gate.expand)]


def test_gates_are_a_quarter_of_the_blocks_input():
    model = abstract_model("regnet_y_400mf")
    squeezed = [block.squeeze_excite.reduce.out_features for block in model.blocks]
    inputs = [32, 48, *[104] * 3, *[208] * 6, *[440] * 5]
    assert squeezed == [8, 12, *[26] * 3, *[52] * 6, *[110] * 5] == [n // 4 for n in inputs]
    assert gate_biases(abstract_model("regnet_x_400mf")) == []
    tiny = abstract_model("regnet_y_400mf", se_ratio=0.001)
    assert tiny.blocks[0].squeeze_excite.reduce.out_features == 1


@pytest.mark.parametrize("options", [{"bottleneck_multiplier": 0.5}, {"se_ratio": 0.5}, {}])
def test_other_arguments_give_torchvisions_network(options):
    from torchvision.models import regnet

    gated = {"se_ratio": None, **options}
    theirs = regnet.RegNet(regnet.BlockParams.from_init_params(**SMALL, **gated), num_classes=5)
    ours = RegNet(**SMALL, **options, num_classes=5, rngs=nnx.Rngs(0))
    state = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in fb.to_torch(ours).items()} == state
    calibrate(theirs, (4, 3, 64, 64))
    fb.load_torch(ours, theirs.state_dict())
    x = np.random.default_rng(0).normal(size=(2, 65, 47, 3))
    report = fb.parity.compare(ours, theirs, x, float32=False)
    assert report.first_departure is None, str(report)  # 1e-12 at every module


@pytest.mark.parametrize("name", ["regnetx_004_tv", "regnety_008_tv"])
def test_timms_network_of_that_name_is_the_same_in_its_own_layout(name):
    import timm

    oracle: Any = timm.create_model(name, num_classes=5)
    calibrate(oracle, (4, 3, 64, 64))
    state = oracle.state_dict()
    model = fb.create_model(name, weights=state)
    back = fb.to_torch(model)  # the layout that it was loaded from
    assert list(back) == list(state)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value.numpy(), err_msg=key)
    images = np.random.default_rng(0).normal(size=(2, 65, 47, 3))
    report = fb.parity.compare(model, oracle, images, "timm", float32=False)
    assert report.first_departure is None, str(report)  # 1e-12 at every module
    assert report.worst("module") > 0
    modules = {row.foreign for row in report.rows if row.kind == "module"}
    assert {"s2.b1.downsample.bn", "s4.b2.conv2.bn", "s1.b1", "head.fc"} <= modules
    assert ("s1.b1.se" in modules) == name.startswith("regnety")


@pytest.mark.parametrize("entry", ROWS.values(), ids=lambda entry: entry.name)
def test_the_alias_is_timms_same_network(entry):
    import timm

    (alias,) = entry.aliases
    assert find_model(alias) is entry
    config: Any = timm.models.regnet.model_cfgs[alias]
    assert [config.depth, config.w0, config.wa, config.wm, config.group_size] == [
        entry.config[name] for name in LINE
    ]
    assert config.se_ratio == entry.config.get("se_ratio", 0)
    widths, _, groups = timm.models.regnet.generate_regnet(
        config.wa, config.w0, config.wm, config.depth, config.group_size
    )
    adjusted = timm.models.regnet.adjust_widths_groups_comp(
        sorted(set(widths)), [1.0] * len(groups), groups, config.group_min_ratio
    )
    stages = quantized_linear_stages(**line_of(entry.config))
    assert tuple(map(list, adjusted)) == (
        [stage.width for stage in stages],
        [stage.group_width for stage in stages],
    )


@pytest.mark.parametrize("name", ["regnet_x_400mf", "regnet_y_8gf"])
def test_feature_maps_are_timms(name):
    import timm

    (alias,) = ROWS[name].aliases
    with torch.device("meta"):
        wanted: Any = timm.create_model(alias, features_only=True)
    ours = abstract_model(name).feature_info
    assert ours.channels() == wanted.feature_info.channels()
    assert ours.reduction() == wanted.feature_info.reduction()


def test_it_starts_as_torchvisions():
    model = fb.create_model("regnet_y_400mf", num_classes=400, rngs=1)
    last = model.blocks[-1]
    for layer, fan_out in (
        (last.reduce.conv, 440),
        (last.conv.conv, 9 * 440),  # of all groups together
        (last.squeeze_excite.expand, 440),
    ):
        # A deviation from n draws is off by 1 / sqrt(2 n): under 1% here, so 5% are many of them.
        assert float(layer.kernel[...].std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
    assert float(model.head.kernel[...].std()) == pytest.approx(0.01, rel=0.05)
    assert not model.head.bias[...].any()
    bias = last.squeeze_excite.expand.bias[...]
    assert 0 < float(jnp.abs(bias).max()) <= 110**-0.5  # PyTorch's default
    assert float(last.expand.norm.scale[...].min()) == 1


def test_rates_grow_linearly_and_change_no_key():
    model = abstract_model("regnet_x_400mf", stochastic_depth=0.21, dropout=0.3)
    rates = [block.stochastic_depth.rate for block in model.blocks if block.stochastic_depth]
    assert rates == pytest.approx([0.01 * i for i in range(1, 22)])
    assert model.dropout.rate == 0.3
    plain = abstract_model("regnet_x_400mf")
    assert [e.foreign for e in key_map(model, "timm").entries] == [
        e.foreign for e in key_map(plain, "timm").entries
    ]
    assert plain.dropout.rate == 0


def test_the_activation_is_the_callers_throughout():
    with jax.enable_x64():
        model = RegNet(**SMALL, se_ratio=0.25, activation="silu", num_classes=2, rngs=nnx.Rngs(0))
    block: Any = model.blocks[0]
    silu = fb.nn.get_activation("silu")
    kinds = [model.stem, block.reduce, block.conv, block.squeeze_excite]
    assert all(layer.activation is silu for layer in kinds)
    assert block.final_activation is silu
    x = jnp.asarray([[-1.0, 2.0]])
    assert relative_error(np.asarray(block.shortcut.activation(x)), np.asarray(x)) == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"depth": 0}, r"`depth` \(=0\) must be an integer of at least 1"),
        ({"w_0": 20}, r"`w_0` \(=20\) must be divisible by 8"),
        ({"w_0": 0}, r"`w_0` \(=0\)"),
        ({"w_a": -0.1}, r"`w_a` \(=-0.1\) must be at least 0"),
        ({"w_a": math.nan}, r"`w_a` \(=nan\)"),
        ({"w_m": 1.0}, r"`w_m` \(=1.0\) must be above 1"),
        ({"group_width": 0}, r"`group_width` \(=0\)"),
        ({"stem_width": 0}, r"`stem_width` \(=0\)"),
        ({"se_ratio": 0.0}, r"`se_ratio` \(=0.0\) must be in \(0, 1\]"),
        ({"se_ratio": 1.5}, r"`se_ratio` \(=1.5\)"),
        ({"bottleneck_multiplier": 0.0}, r"`bottleneck_multiplier` \(=0.0\) must be positive"),
        ({"bottleneck_multiplier": 0.01}, r"`bottleneck_multiplier` \(=0.01\) leaves no channel"),
        ({"dropout": 1.5}, r"`dropout` \(=1.5\) must be a probability"),
        ({"stochastic_depth": -1.0}, r"`stochastic_depth` \(=-1.0\)"),
        ({"num_classes": -1}, r"`num_classes` \(=-1\)"),
        ({"in_channels": 0}, r"`in_channels` \(=0\)"),
        ({"norm_layer": "batchnorm"}, r"`norm_layer` \(='batchnorm'\) must be one of"),
        ({"activation": "swish"}, r"`activation` \(='swish'\) must be one of"),
    ],
)
def test_a_wrong_argument_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        fb.create_model("regnet_x_400mf", **config)
