"""What a folder of the hub says of its network."""

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxblocks.create.build import abstract_model
from flaxblocks.models.hub_config import row_of
from flaxblocks.models.registry import find_model
from flaxblocks.models.transformers_config import TRANSFORMERS

LABELS = {"id2label": {str(k): f"LABEL_{k}" for k in range(11)}}


def transformers(kind: str, **settings: Any) -> dict[str, Any]:
    """As transformers saves it: with what differs from its class's own settings, and other keys."""
    name = f"{kind}ForImageClassification"
    return {"architectures": [name], "transformers_version": "5.24.0", **LABELS, **settings}


BASIC = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}
B0 = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "image_size": 224}
B1 = {**B0, "depth_coefficient": 1.1, "image_size": 240, "depthwise_padding": [16]}
Y400 = {"depths": [1, 3, 6, 6], "hidden_sizes": [48, 104, 208, 440], "groups_width": 8}
X400 = {"depths": [1, 2, 7, 12], "hidden_sizes": [32, 64, 160, 400], "groups_width": 16}
TF = {"padding": "SAME", "norm_eps": 1e-3}
KNOWN = [
    ({"architecture": "tf_efficientnet_b0", "num_classes": 10}, "tf_efficientnet_b0", 10, {}),
    ({"architecture": "efficientnet_b5", "num_classes": 10}, "timm_efficientnet_b5", 10, {}),
    ({"architecture": "mobilenetv2_100", "model_args": None}, "mobilenet_v2", None, {}),
    (
        {
            "architecture": "resnet18",
            "architectures": ["TimmWrapperForImageClassification"],
            "num_classes": 0,
            "model_args": {"drop_rate": 0.5, "img_size": 256},
        },
        "resnet18",
        0,
        {"dropout": 0.5},
    ),
    (
        {"architecture": "mobilenetv2_050", "model_args": {"bn_eps": 1e-3, "in_chans": 1}},
        "mobilenetv2_050",
        None,
        {"norm_eps": 1e-3, "in_channels": 1},
    ),
    (transformers("ResNet"), "resnet50", 11, {}),
    (transformers("ResNet", **BASIC, depths=[2, 2, 2, 2]), "resnet18", 11, {}),
    (transformers("ResNet", depths=[3, 8, 36, 3]), "resnet152", 11, {}),
    (transformers("ResNet", depths=[1, 2, 1, 1]), "resnet50", 11, {"depths": (1, 2, 1, 1)}),
    (
        transformers("ResNet", downsample_in_bottleneck=True, num_channels=1),
        "resnet50",
        11,
        {"stride_in": "1x1", "in_channels": 1},
    ),
    (transformers("RegNet", **Y400), "regnet_y_400mf", 11, {}),
    (transformers("RegNet", **X400, layer_type="x"), "regnet_x_400mf", 11, {}),
    (transformers("EfficientNet"), "tf_efficientnet_b7", 11, {}),
    (transformers("EfficientNet", **B0), "tf_efficientnet_b0", 11, {}),
    (transformers("EfficientNet", **B1, hidden_act="silu"), "tf_efficientnet_b1", 11, {}),
    (
        transformers("EfficientNet", **{**B0, "depth_coefficient": 0.5}),
        "tf_efficientnet_b0",
        11,
        {"width_mult": 1.0, "depth_mult": 0.5},
    ),
    (transformers("MobileNetV1"), "mobilenet_v1", 11, TF),
    (
        transformers("MobileNetV1", depth_multiplier=0.25),
        "mobilenet_v1",
        11,
        TF | {"width_mult": 0.25},
    ),
    (transformers("MobileNetV1", tf_padding=False), "mobilenet_v1", 11, {"norm_eps": 1e-3}),
    (
        transformers("MobileNetV2", depth_multiplier=1.4),
        "mobilenet_v2",
        11,
        TF | {"width_mult": 1.4},
    ),
    (transformers("MobileNetV2", layer_norm_eps=1e-5), "mobilenet_v2", 11, {"padding": "SAME"}),
]


@pytest.mark.parametrize(("config", "row", "classes", "arguments"), KNOWN)
def test_a_network_of_ours_is_known(config, row, classes, arguments):
    counted = {} if classes is None else {"num_classes": classes}
    found = row_of(json.loads(json.dumps(config)))
    assert found == (row, {**arguments, **counted})
    assert set(arguments) <= set(find_model(row).arguments)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"architecture": "vit_base_patch16_224"},
        {"architecture": "resnet18", "model_args": {"block_args": {}}},
        {"architecture": "resnet18", "model_args": {"bn_eps": 1e-3}},
        {"architecture": "resnet18", "num_classes": "10"},
        {"architecture": "resnet18", "num_classes": -1},
        {"architecture": ["resnet18"]},
        {"architectures": "ResNetForImageClassification"},
        {"architectures": [["ResNetForImageClassification"]]},
        {"architectures": ["ViTForImageClassification"]},
        transformers("ResNet", depths=[3, 4, 6]),
        transformers("ResNet", depths=[3, 4, 6, 10**9]),
        transformers("ResNet", depths=[3, 4, 6, True]),
        transformers("ResNet", layer_type="basic"),
        transformers("ResNet", hidden_act="gelu"),
        transformers("ResNet", downsample_in_first_stage=True),
        transformers("ResNet", num_channels=0),
        transformers("RegNet"),  # regnet-y-040
        transformers("RegNet", **X400),
        transformers("RegNet", **Y400, layer_type="z"),
        transformers("EfficientNet", **{**B0, "hidden_dim": 1408}),
        transformers("EfficientNet", **B0, strides=[1, 2, 2, 1, 1, 2, 1]),
        transformers("MobileNetV1", depth_multiplier=0.3),  # no multiples of 8 there
        transformers("MobileNetV2", depth_multiplier=0.5, finegrained_output=False),
        transformers("MobileNetV2", output_stride=16),
        transformers("MobileNetV2", depth_multiplier=math.nan),
        transformers("MobileNetV2", depth_multiplier=10**400),
        transformers("MobileNetV2", layer_norm_eps=math.inf),
    ],
)
def test_others_are_not(config):
    assert row_of(config) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
KEYS = sorted({key for kind in TRANSFORMERS.values() for key in kind.defaults})
MORE_KEYS = ["architecture", "architectures", "num_classes", "model_args", "id2label", "num_labels"]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from(KNOWN), st.sampled_from(KEYS + MORE_KEYS + ["num_channels"]), JSON)
def test_nonsense_raises_nothing(known, key, value):
    """Where something still comes of it, it is a network that can be described."""
    config = {**copy.deepcopy(known[0]), key: value}
    found = row_of(config)
    if found is not None:
        assert set(found[1]) <= set(find_model(found[0]).arguments)
    assert row_of(value) is None


@pytest.mark.parametrize("index", range(0, len(KNOWN), 4))
def test_what_is_known_can_be_built(index):
    row, arguments = row_of(KNOWN[index][0]) or ("", {})
    model = abstract_model(row, **arguments)
    assert model.num_classes == arguments.get("num_classes", 1000)
