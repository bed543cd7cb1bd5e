"""MobileNetV2 in its own arguments against torchvision's."""

import numpy as np
import pytest
import torch

import flaxblocks as fb
from flaxblocks.models.registry import find_model
from flaxblocks.parity.calibration import calibrate
from flaxblocks.parity.oracle import import_torchvision
from flaxblocks.parity.verify import verify

WIDTHS = [0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4, 2.0]
ODD_SIZES = [(97, 131), (33, 65), (224, 160), (50, 71), (64, 64), (75, 40), (32, 97), (111, 45)]


DEFAULT = (0.25, 1.4)  # in the parity of every model there are others


@pytest.mark.parametrize(
    ("width", "size"),
    [
        pytest.param(width, size, marks=[] if width in DEFAULT else [pytest.mark.thorough])
        for width, size in zip(WIDTHS, ODD_SIZES, strict=True)
    ],
)
def test_mobilenet_v2_agrees_at_every_width_and_odd_sizes(width, size):
    report = verify(find_model("mobilenet_v2"), size=size, batch=2, config={"width_mult": width})
    assert report.first_departure is None, str(report)  # 1e-12 in float64 at every module
    assert report.float32_holds, report.summary()


@pytest.mark.parametrize(
    "config",
    [
        {"round_nearest": 1, "width_mult": 0.75},
        {"inverted_residual_setting": [[1, 16, 1, 1], [1.5, 24, 2, 2]], "dropout": 0.5},
    ],
)
def test_mobilenet_v2_agrees_with_other_arguments(config):
    report = verify(find_model("mobilenet_v2"), size=(40, 33), config=config)
    assert report.ok, report.summary()


def test_mobilenet_v2_takes_other_channels():
    oracle = import_torchvision().models.mobilenet_v2(num_classes=6, width_mult=0.35)
    stem = torch.nn.Conv2d(5, 16, 3, 2, 1, bias=False)  # torchvision's own takes 3 channels
    oracle.get_submodule("features.0").register_module("0", stem)
    calibrate(oracle, (4, 5, 64, 64))
    model = fb.create_model(
        "mobilenet_v2", weights=oracle.state_dict(), width_mult=0.35, in_channels=5
    )
    x = np.random.default_rng(0).standard_normal((2, 50, 37, 5))
    assert fb.parity.compare(model, oracle, x).ok


@pytest.mark.parametrize(
    ("width", "size"),
    [
        pytest.param(0.25, (65, 47), marks=pytest.mark.thorough),  # a family of its own has 0.35
        (1.0, (64, 96)),
    ],
)
def test_mobilenet_v2_agrees_in_training_mode_with_buffers_and_gradients(width, size):
    report = verify(
        find_model("mobilenet_v2"),
        size=size,
        batch=3,
        train=True,
        grad=True,
        float32=False,
        num_classes=7,
        config={"width_mult": width},
    )
    assert report.first_departure is None, str(report)  # 1e-12; gradients 1e-10
    kinds = [row.kind for row in report.rows]
    assert kinds.count("buffer") == 3 * 52
    assert kinds.count("gradient") == 158
