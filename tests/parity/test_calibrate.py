"""Calibration leaves nothing that would hide a mistake."""

from typing import Any

import pytest
import torch

from flaxblocks.models.registry import find_model
from flaxblocks.parity import oracle
from flaxblocks.parity.calibration import calibrate
from flaxblocks.parity.oracle import calibrated_oracle, make_oracle

MEAN = "features.0.1.running_mean"


def test_no_parameter_or_statistic_is_constant_after_calibration():
    model: Any = make_oracle(find_model("mobilenet_v2"), 5, 3, {"width_mult": 0.25})
    assert not model.training
    assert (model.classifier[1].bias == 0).all()
    calibrate(model, (4, 3, 64, 64))
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            assert value.std() > 0, name
            assert torch.isfinite(value).all(), name
    assert not model.training


def test_running_statistics_are_those_of_the_images_and_momentum_stays():
    model: Any = make_oracle(find_model("efficientnet_v2_s"), 5, 3, {})
    calibrate(model, (4, 3, 64, 64))
    images = torch.randn((16, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        stem = model.features[0][0](images)
    norm = model.features[0][1]
    assert norm.momentum == 0.1
    assert norm.num_batches_tracked == 3
    # 12 images there, 16 here: the deviation of a variance over so many pixels is below 3%
    torch.testing.assert_close(norm.running_var, stem.var((0, 2, 3)), rtol=0.1, atol=0)


def test_calibration_is_the_same_for_the_same_seed():
    states = []
    for draw in (3, 3, 4):
        model = make_oracle(find_model("mobilenet_v2"), 5, 3, {"width_mult": 0.25}, seed=3)
        calibrate(model, (4, 3, 64, 64), seed=draw)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0][MEAN], states[2][MEAN])


def test_the_seed_is_the_oracles_own():
    before = torch.get_rng_state()
    heads = [
        make_oracle(find_model("mobilenet_v2"), 5, 3, {"width_mult": 0.25}, seed=seed)
        .get_submodule("classifier.1")
        .get_parameter("weight")
        for seed in (0, 0, 1)
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "last", "branches"),
    [
        ("resnet18", "layer3.1.bn2.weight", 8),
        ("resnet26d", "layer3.1.bn3.weight", 8),  # both summands end with a norm
        ("resnext50_article", "conv4_blocks.1.residual.7.weight", 16),
        ("regnet_y_400mf", "trunk_output.block3.block3-1.f.c.1.weight", 16),
        ("mobilenet_v2", "features.3.conv.3.weight", 10),
        ("efficientnet_b0", "features.4.2.block.3.1.weight", 9),
        ("rexnet_100", "features.4.conv_pwl.bn.weight", 11),  # the addition of a slice
        ("rexnet_plain", "features.4.out.7.weight", 0),  # no addition
    ],
)
def test_residual_branches_stay_small_whoever_publishes_the_model(name, last, branches):
    def size(scale: torch.Tensor) -> float:
        return scale.pow(2).mean().sqrt().item()

    model = calibrated_oracle(find_model(name), 5)
    scales = {key: value for key, value in model.named_parameters() if value.ndim == 1}
    small = {key for key, value in scales.items() if key.endswith("weight") and size(value) < 0.5}
    assert len(small) == branches
    assert (last in small) == (branches > 0)
    for key in small:
        assert 0.1 < size(scales[key]) < 0.3, key  # 0.2 about 0, not about 1
        assert (scales[key] != 0).all(), key


class Added(torch.nn.Module):
    """`x[:, :4] += skip`, as the official ReXNet adds."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(4, 6, 3, padding=1), torch.nn.BatchNorm2d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        y[:, :4] += x
        return y


def test_a_branch_added_in_place_stays_small_too():
    model = Added()
    calibrate(model, (4, 4, 9, 9))
    assert model.norm.weight.pow(2).mean().sqrt() < 0.5


def test_the_last_norms_of_a_deep_network_see_more_than_a_handful_of_values():
    seen = []
    model = make_oracle(find_model("efficientnet_b0"), 5, 3, {})
    model.get_submodule("features.8.1").register_forward_hook(
        lambda _module, inputs, _output: seen.append(inputs[0].shape)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "make_oracle", lambda *_args, **_options: model)
        calibrated_oracle(find_model("efficientnet_b0"), 5, size=(33, 129))
    # One image finds the branches, four calibrate; 96 and 129 pixels, a 32nd.
    assert [tuple(shape) for shape in seen] == [(1, 1280, 3, 5), *3 * [(4, 1280, 3, 5)]]
