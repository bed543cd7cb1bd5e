"""From the `config.json` of a model of transformers to a row of the registry.

A network that differs from a row in anything that a row's arguments cannot express is refused.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flaxblocks.blocks.channels import make_divisible
from flaxblocks.models.mobilenetv2 import LAST_FEATURES
from flaxblocks.models.mobilenetv2 import SETTING as V2_SETTING
from flaxblocks.models.registry import ModelEntry, find_model, model_entries
from flaxblocks.models.regnet import RegNet, quantized_linear_stages
from flaxblocks.models.resnet import STAGE_FEATURES, ResNet

__all__ = ["MOST_CLASSES", "Row", "is_number_like", "transformers_row"]

Row = tuple[str, dict[str, Any]]
Values = dict[str, Any]

MOST_CLASSES = 1_000_000
MOST_BLOCKS = 200  # in a stage
LARGEST_SCALE = 10.0


def is_number_like(value: Any, kind: type) -> bool:
    """Whether it is an integer, or for `kind` float any number."""
    kinds = (int, float) if kind is float else (int,)
    return isinstance(value, kinds) and not isinstance(value, bool)


class Kind(NamedTuple):
    """A model class of transformers.

    Attributes:
        defaults: the settings that shape the network, with the values that they have by default.
        free: those that a row or its arguments can follow; the others must have their defaults.
        find: finds the row and its arguments from the values of all of them.
    """

    defaults: Mapping[str, Any]
    free: tuple[str, ...]
    find: Callable[[Values], Row | None]


def transformers_row(settings: Mapping[str, Any]) -> Row | None:
    """The registry row of a model of transformers and its arguments; None for any other network."""
    named = settings.get("architectures")
    name = named[0] if isinstance(named, list | tuple) and len(named) == 1 else None
    kind = TRANSFORMERS.get(name) if isinstance(name, str) else None
    if kind is None:
        return None
    values = {}
    for key, default in kind.defaults.items():
        value = settings.get(key, default)
        if not _is_like(value, default):
            return None
        values[key] = tuple(value) if isinstance(default, tuple) else value
        if key not in kind.free and values[key] != default:
            return None
    found = kind.find(values)
    counts = _counts(settings)
    return None if found is None or counts is None else (found[0], {**found[1], **counts})


def _is_like(value: Any, default: Any) -> bool:
    """Whether it is of the kind of `default`: a number, a word, a switch, a few integers."""
    if isinstance(default, tuple):
        listed = isinstance(value, list | tuple) and len(value) <= 100
        return listed and all(is_number_like(item, int) for item in value)
    if isinstance(default, int | float) and not isinstance(default, bool):
        return is_number_like(value, type(default))
    return type(value) is type(default)


def _counts(settings: Mapping[str, Any]) -> Values | None:
    """`num_classes` and `in_channels`, if the settings give them; None if those are impossible."""
    labels = settings.get("id2label")
    classes = len(labels) if isinstance(labels, Mapping) else settings.get("num_labels")
    channels = settings.get("num_channels", 3)
    if classes is not None and not (is_number_like(classes, int) and 0 <= classes <= MOST_CLASSES):
        return None
    if not is_number_like(channels, int) or not 1 <= channels <= MOST_CLASSES:
        return None
    counts = {} if classes is None else {"num_classes": classes}
    return counts if channels == 3 else {**counts, "in_channels": channels}


def _rows(build: type) -> list[ModelEntry]:
    return [entry for entry in model_entries() if entry.build is build]


def _resnet(values: Values) -> Row | None:
    block, depths = values["layer_type"], values["depths"]
    wider = {"basic": 1, "bottleneck": 4}.get(block, 0)
    if values["hidden_sizes"] != tuple(wider * features for features in STAGE_FEATURES):
        return None
    if len(depths) != len(STAGE_FEATURES) or not all(1 <= n <= MOST_BLOCKS for n in depths):
        return None
    arguments: Values = {}
    if block == "bottleneck" and values["downsample_in_bottleneck"]:
        arguments["stride_in"] = "1x1"
    for entry in _rows(ResNet):
        shape = {key: value for key, value in entry.config.items() if key != "zero_init_last"}
        if shape == {"block": block, "depths": depths}:
            return entry.name, arguments
    return {"basic": "resnet18", "bottleneck": "resnet50"}[block], {"depths": depths, **arguments}


def _regnet(values: Values) -> Row | None:
    gate = {"x": None, "y": 0.25}.get(values["layer_type"], 0.0)
    for entry in _rows(RegNet):
        line = {key: value for key, value in entry.config.items() if key != "se_ratio"}
        stages = quantized_linear_stages(**line)
        shape = tuple(s.depth for s in stages), tuple(s.width for s in stages), line["group_width"]
        wanted = values["depths"], values["hidden_sizes"], values["groups_width"]
        if shape == wanted and entry.config.get("se_ratio") == gate:
            return entry.name, {}
    return None


def _efficientnet(values: Values) -> Row | None:
    width, depth = values["width_coefficient"], values["depth_coefficient"]
    if not all(0 < scale <= LARGEST_SCALE for scale in (width, depth)):
        return None
    eps = values["batch_norm_eps"]
    if not 0 < eps < 1 or values["hidden_dim"] != make_divisible(LAST_FEATURES * width):
        return None
    if values["hidden_act"] not in ("swish", "silu"):
        return None
    arguments = {} if eps == 1e-3 else {"norm_eps": eps}
    for k in range(9):
        entry = find_model(f"tf_efficientnet_b{k}")
        if (entry.config["width_mult"], entry.config["depth_mult"]) == (width, depth):
            return entry.name, arguments
    return "tf_efficientnet_b0", {"width_mult": width, "depth_mult": depth, **arguments}


def _mobilenet_v1(values: Values) -> Row | None:
    scale = values["depth_multiplier"]
    if not 0 < scale <= LARGEST_SCALE:
        return None
    widths = [32 * 2**k for k in range(6)]
    if any(max(int(n * scale), 8) != make_divisible(n * scale) for n in widths):
        return None
    return _mobilenet("mobilenet_v1", values)


def _mobilenet_v2(values: Values) -> Row | None:
    scale = values["depth_multiplier"]
    if not 0 < scale <= LARGEST_SCALE or (scale < 1 and not values["finegrained_output"]):
        return None
    widths = [32, *(channels for _, channels, _, _ in V2_SETTING), LAST_FEATURES]
    if any(make_divisible(round(n * scale)) != make_divisible(n * scale) for n in widths):
        return None
    return _mobilenet("mobilenet_v2", values)


def _mobilenet(name: str, values: Values) -> Row | None:
    """Read what both have: a width, TensorFlow's padding, an epsilon."""
    scale, eps = values["depth_multiplier"], values["layer_norm_eps"]
    if not 0 < eps < 1:
        return None
    said = {
        "width_mult": (scale, 1.0),
        "padding": ("SAME" if values["tf_padding"] else None, None),
        "norm_eps": (eps, 1e-5),
    }
    return name, {argument: value for argument, (value, own) in said.items() if value != own}


MOBILENET = {"depth_multiplier": 1.0, "tf_padding": True, "layer_norm_eps": 1e-3}
MOBILENET_FIXED = {"hidden_act": "relu6", "min_depth": 8}
TRANSFORMERS = {
    "ResNetForImageClassification": Kind(
        {
            "layer_type": "bottleneck",
            "depths": (3, 4, 6, 3),
            "hidden_sizes": (256, 512, 1024, 2048),
            "downsample_in_bottleneck": False,
            "downsample_in_first_stage": False,
            "embedding_size": 64,
            "hidden_act": "relu",
        },
        ("layer_type", "depths", "hidden_sizes", "downsample_in_bottleneck"),
        _resnet,
    ),
    "RegNetForImageClassification": Kind(
        {
            "layer_type": "y",
            "depths": (2, 6, 12, 2),
            "hidden_sizes": (128, 192, 512, 1088),
            "groups_width": 64,
            "downsample_in_first_stage": True,
            "embedding_size": 32,
            "hidden_act": "relu",
        },
        ("layer_type", "depths", "hidden_sizes", "groups_width"),
        _regnet,
    ),
    "EfficientNetForImageClassification": Kind(
        {
            "width_coefficient": 2.0,
            "depth_coefficient": 3.1,
            "hidden_dim": 2560,
            "batch_norm_eps": 1e-3,
            "hidden_act": "swish",
            "depth_divisor": 8,
            "kernel_sizes": (3, 3, 5, 3, 5, 5, 3),
            "in_channels": (32, 16, 24, 40, 80, 112, 192),
            "out_channels": (16, 24, 40, 80, 112, 192, 320),
            "strides": (1, 2, 2, 2, 1, 2, 1),
            "num_block_repeats": (1, 2, 2, 3, 3, 4, 1),
            "expand_ratios": (1, 6, 6, 6, 6, 6, 6),
            "squeeze_expansion_ratio": 0.25,
            "pooling_type": "mean",
        },
        ("width_coefficient", "depth_coefficient", "hidden_dim", "batch_norm_eps", "hidden_act"),
        _efficientnet,
    ),
    "MobileNetV1ForImageClassification": Kind(
        {**MOBILENET, **MOBILENET_FIXED}, tuple(MOBILENET), _mobilenet_v1
    ),
    "MobileNetV2ForImageClassification": Kind(
        {
            **MOBILENET,
            **MOBILENET_FIXED,
            "finegrained_output": True,
            "depth_divisible_by": 8,
            "expand_ratio": 6.0,
            "output_stride": 32,
            "first_layer_is_expansion": True,
        },
        (*MOBILENET, "finegrained_output"),
        _mobilenet_v2,
    ),
}
