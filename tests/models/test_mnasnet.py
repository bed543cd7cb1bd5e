"""MnasNet: how it is scaled, skips, gates, arguments, initialisation, norm settings."""

from typing import Any

import numpy as np
import pytest
import torch
from torchvision import models
from torchvision.models import MNASNet

import flaxblocks as fb
from flaxblocks.checkpoints.read import read_checkpoint
from flaxblocks.convert.keymap import key_map
from flaxblocks.create.build import abstract_model
from flaxblocks.create.convert_file import convert_file
from flaxblocks.inspect.summary import summarize
from flaxblocks.models.mnasnet import B1
from flaxblocks.models.registry import find_model
from tests.support import equal_arrays


@pytest.mark.parametrize("width", [0.25, 0.35, 1.75])
def test_keys_and_shapes_are_torchvisions_at_other_widths(width):
    with torch.device("meta"):
        original = MNASNet(width)
    keys = key_map(abstract_model("mnasnet1_0", width_mult=width), "torchvision")
    wanted = {key: tuple(value.shape) for key, value in original.state_dict().items()}
    assert {key: entry.foreign_shape for key, entry in keys.by_foreign.items()} == wanted


def test_skips_are_torchvisions_where_a_narrow_network_keeps_its_shape():
    original: Any = MNASNet(0.25)
    model = abstract_model("mnasnet1_0", width_mult=0.25)
    first, *rest = model.blocks
    assert first.conv.conv.in_features == first.project.conv.out_features == 8
    assert not first.residual
    stacks = [block for stack in original.layers[8:14] for block in stack]
    assert [block.residual for block in rest] == [block.apply_residual for block in stacks]
    assert abstract_model("mnasnet_small").blocks[0].residual


@pytest.mark.parametrize(
    ("name", "millions"), [("mnasnet0_5", 104), ("mnasnet1_0", 314), ("mnasnet1_3", 526)]
)
def test_multiply_adds_are_torchvisions(name, millions):
    rows = summarize(abstract_model(name), (224, 224))
    assert sum(row.multiply_adds for row in rows) / 1e6 == pytest.approx(millions, abs=1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"stages": ()}, "`stages`.*at least one row"),
        ({"stages": (B1[0], (3, 3, 24))}, r"row \(3, 3, 24\): each must be \(kernel, expansion"),
        ({"stages": ((3, 1, 16, 1, 4),)}, "stride 4 in row .*: it must be 1 or 2"),
        ({"stages": ((3, 1, 16, 0, 1),)}, "every number must be positive"),
        ({"stages": ((3, 1, 16, 1, 1, -0.25),)}, "every number must be positive"),
        ({"stem_features": 0}, r"`stem_features` \(=0\)"),
    ],
)
def test_a_wrong_argument_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        fb.create_model("mnasnet0_5", **config)


def test_gates_are_a_quarter_of_a_blocks_input():
    model = abstract_model("semnasnet_100")
    widths = {
        stage: block.squeeze_excite.reduce.out_features
        for _, stage, k, block in model.placed_blocks
        if block.squeeze_excite is not None and k == 0
    }
    assert widths == {2: 6, 4: 20, 5: 28}


def test_a_gate_has_a_place_of_its_own_in_torchvisions_layout():
    keys = key_map(abstract_model("semnasnet_050"), "torchvision").by_foreign
    assert keys["layers.9.0.layers.6.fc1.weight"].native == "blocks.3.squeeze_excite.reduce.kernel"
    assert keys["layers.9.0.layers.7.weight"].native == "blocks.3.project.conv.kernel"
    assert keys["layers.14.weight"].native == "head_conv.conv.kernel"


def test_a_deeper_first_stage_stays_among_the_bare_layers():
    stages = ((3, 1, 16, 2, 1), (3, 3, 24, 1, 2))
    keys = key_map(abstract_model("mnasnet1_0", stages=stages), "torchvision").by_foreign
    natives = {key.removesuffix(".weight"): entry.native for key, entry in keys.items()}
    assert natives["layers.8"] == "blocks.1.conv.conv.kernel"
    assert natives["layers.13.0.layers.0"] == "blocks.2.expand.conv.kernel"
    assert natives["layers.14"] == "head_conv.conv.kernel"


def test_norm_settings_are_the_librarys():
    for name, momentum in {"mnasnet0_5": 1 - 0.9997, "mnasnet_050": 0.1}.items():
        norm = abstract_model(name).blocks[2].conv.norm
        assert (norm.eps, norm.momentum) == (1e-5, momentum)


@pytest.mark.parametrize("name", ["mnasnet0_5", "semnasnet_050"])
def test_initialisation_is_the_librarys(name):
    model: Any = fb.create_model(name)
    is_timm = name == "semnasnet_050"
    block = model.blocks[-1]
    channels = block.conv.conv.in_features
    depthwise = np.asarray(block.conv.conv.kernel[...])
    fan_out = 9 if is_timm else 9 * channels
    assert np.std(depthwise) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    head = np.asarray(model.head.kernel[...])
    bound = 1000**-0.5 if is_timm else (3 / 1000) ** 0.5
    assert abs(head).max() == pytest.approx(bound, rel=1e-3)
    assert not np.any(model.head.bias[...])
    gates = [block.squeeze_excite for block in model.blocks if block.squeeze_excite is not None]
    assert not any(np.any(gate.reduce.bias[...]) for gate in gates)
    assert len(gates) == (8 if is_timm else 0)


def test_torchvision_loads_what_is_written_strictly_and_timm_sees_no_version(tmp_path):
    original = models.get_model("mnasnet0_5", num_classes=3)
    model = fb.create_model("mnasnet0_5", weights=original.state_dict())
    fb.write_checkpoint(fb.to_torch(model), tmp_path / "ours.pth")
    fb.write_checkpoint(fb.to_torch(model, "timm"), tmp_path / "timm.pth")
    convert_file(
        tmp_path / "timm.pth",
        tmp_path / "translated.pth",
        find_model("mnasnet0_5"),
        layout="torchvision",
    )
    for name in ("ours", "translated"):
        state = torch.load(tmp_path / f"{name}.pth", weights_only=True)
        assert state._metadata == {"": {"version": 2}}
        original.load_state_dict(state, strict=True)
    assert not hasattr(torch.load(tmp_path / "timm.pth", weights_only=True), "_metadata")
    assert equal_arrays(read_checkpoint(tmp_path / "translated.pth"), fb.to_torch(model))
