"""MobileNetV1 and Plain by the numbers: published counts, arguments, initialisation, names."""

from typing import Any

import numpy as np
import pytest
import torch

import flaxblocks as fb
from flaxblocks.convert.keymap import key_map
from flaxblocks.create.build import abstract_model
from flaxblocks.inspect.summary import count_parameters, summarize
from flaxblocks.models.mobilenetv1 import PLAIN, SETTING
from torch_ref.models import MobileNetV1 as TorchMobileNetV1

# Of the paper's table 1; its table 6 rounds them to 4.2, 2.6, 1.3, 0.5 million and 569, 325, 149,
# 41 million.
COUNTS = {
    1.0: (4_231_976, 568_763_240),
    0.75: (2_585_560, 325_417_864),
    0.5: (1_331_592, 149_509_032),
    0.25: (470_072, 41_036_744),
}


def multiply_adds(model: Any) -> int:
    return sum(row.multiply_adds for row in summarize(model, (224, 224)))


@pytest.mark.parametrize("width", COUNTS)
def test_published_counts_hold(width):
    model = abstract_model("mobilenet_v1", width_mult=width)
    assert (count_parameters(model), multiply_adds(model)) == COUNTS[width]


def test_plain_with_mobilenets_strides_costs_what_its_paper_says():
    rows = [(channels, stride) for (channels, _), (_, stride) in zip(PLAIN, SETTING, strict=True)]
    model = abstract_model("rexnet_plain", separable_setting=rows)
    assert count_parameters(model) == 3_399_240
    # Table A1: 0.56 G. The exact count is of the convolutions and the head; ours has the norms too.
    assert multiply_adds(model) == pytest.approx(564_669_040, rel=1e-4)


def test_plain_is_a_straight_line_of_widths():
    model = abstract_model("rexnet_plain")
    widths = [block.pointwise.conv.out_features for block in model.blocks[:-1]]
    assert set(np.diff(widths)) == {48}
    activations = [
        (block.depthwise.activation.__name__, block.pointwise.activation.__name__)
        for block in model.blocks
    ]
    assert set(activations) == {("relu", "silu")}
    assert model.stem.activation.__name__ == "silu"


def test_stages_begin_where_the_image_shrinks():
    assert abstract_model("mobilenet_v1").depths == (1, 2, 2, 6, 2)
    assert abstract_model("rexnet_plain").depths == (2, 2, 6, 3)


@pytest.mark.parametrize("width", [0.5, 1.25])
def test_a_last_convolution_widens_only(width):
    model = abstract_model("mobilenetv1_100h", width_mult=width)
    assert model.num_features == max(1024, int(1024 * width))
    assert model.head.in_features == model.num_features
    assert model.feature_info.module_name()[-1] == "blocks.12"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"separable_setting": ()}, "`separable_setting`.*at least one row"),
        ({"separable_setting": [(64, 1), (64,)]}, r"row \(64,\): each must be \(channels, stride"),
        ({"separable_setting": [(64, 3)]}, r"stride 3 in row \(64, 3\): it must be 1 or 2"),
        ({"separable_setting": [(0, 1)]}, r"row \(0, 1\)"),
        ({"width_mult": -0.5}, r"`width_mult` \(=-0.5\) must be positive"),
        ({"last_features": 0}, r"`last_features` \(=0\)"),
        ({"activation": "swoosh"}, r"`activation` \(='swoosh'\) must be one of"),
        ({"depthwise_activation": "swoosh"}, r"`activation` \(='swoosh'\) must be one of"),
        ({"dropout": 2.0}, r"`dropout` \(=2.0\)"),
    ],
)
def test_a_wrong_argument_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        fb.create_model("mobilenet_v1", **config)


def test_the_article_layout_numbers_the_convolutions():
    model = abstract_model("rexnet_plain", num_classes=2)
    with torch.device("meta"):
        twin = TorchMobileNetV1(
            2, separable_setting=PLAIN, activation="silu", depthwise_activation="relu"
        )
    keys = key_map(model, "article").by_foreign
    assert list(keys) == list(twin.state_dict())
    assert keys["features.1.0.weight"].native == "blocks.0.depthwise.conv.kernel"
    assert keys["features.26.1.weight"].native == "blocks.12.pointwise.norm.scale"


@pytest.mark.parametrize("config", [{}, {"width_mult": 0.5, "last_features": 1024}], ids=str)
def test_the_twin_has_our_arguments(config):
    with torch.device("meta"):
        twin = TorchMobileNetV1(**config)
    keys = key_map(abstract_model("mobilenet_v1", **config), "article").by_foreign
    wanted = {key: tuple(value.shape) for key, value in twin.state_dict().items()}
    assert {key: entry.foreign_shape for key, entry in keys.items()} == wanted


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"width_mult": 0}, r"`width_mult` \(=0\)"),
        ({"separable_setting": [(64,)]}, r"`separable_setting\[0\]`"),
        ({"num_classes": 0}, r"`num_classes` \(=0\)"),
    ],
)
def test_the_twin_names_a_wrong_argument(config, message):
    with pytest.raises(ValueError, match=message):
        TorchMobileNetV1(**config)


def test_initialisation_is_timms():
    model: Any = fb.create_model("mobilenet_v1")
    last = model.blocks[-1]
    depthwise = np.asarray(last.depthwise.conv.kernel[...])
    assert np.std(depthwise) == pytest.approx((2 / 9) ** 0.5, rel=0.05)  # a channel's fan-out
    pointwise = np.asarray(last.pointwise.conv.kernel[...])
    assert np.std(pointwise) == pytest.approx((2 / 1024) ** 0.5, rel=0.02)
    head = np.asarray(model.head.kernel[...])
    assert abs(head).max() == pytest.approx(1000**-0.5, rel=1e-3)
    assert not np.any(model.head.bias[...])
