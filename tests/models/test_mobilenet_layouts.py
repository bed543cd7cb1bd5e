"""Checkpoints named as other libraries name them: MobileNet V1 to V3.

Each is a network of torchvision or timm, renamed by rules of the other library, in the order of its
`state_dict()`, and gives that network's results; where no library here has the network, a twin.
"""

import re
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from flaxblocks.convert.keymap import layouts_of
from flaxblocks.create.build import abstract_model
from tests.models.renaming import Rule, State, check, lively, renamed

TF: dict[str, Any] = {"padding": "SAME", "norm_eps": 1e-3}
TIMM_TF: dict[str, Any] = {"pad_type": "same", "bn_eps": 1e-3}
WIDTH = 0.35


def mobilenet_v2() -> nn.Module:
    return lively(torchvision.models.mobilenet_v2(width_mult=WIDTH, num_classes=6))


def flat_rules(last: str) -> tuple[Rule, ...]:
    """A block is one Sequential of convolutions, norms and activations; the last convolution is
    `last`.
    """

    def inner(found: re.Match) -> str:
        block, place = found[1], found[2]
        wide = 1 if block == "1" else 2  # convolutions before the last one, with activations
        if "." in place:
            k, layer = map(int, place.split("."))
            return f"features.{block}.conv.{3 * k + layer}."
        return f"features.{block}.conv.{2 * wide + int(place)}."

    return (
        (r"features\.18\.", last),
        (r"features\.(\d+)\.conv\.(\d\.\d|\d)\.", inner),
        (r"features\.0\.", "features.0."),
        (r"classifier\.1\.", "classifier."),
    )


@pytest.mark.parametrize(("layout", "last"), [("tonylins", "features.18."), ("d-li14", "conv.")])
def test_mobilenet_v2_as_one_sequential_a_block(layout, last):
    oracle = mobilenet_v2()
    state = renamed(oracle.state_dict(), *flat_rules(last))
    names = {key.rpartition(".")[0] for key in state if key.startswith("features.2.")}
    assert names == {f"features.2.conv.{k}" for k in (0, 1, 3, 4, 6, 7)}
    check("mobilenet_v2", layout, state, oracle, width_mult=WIDTH)


def test_mobilenet_v2_of_mmpretrain():
    oracle = mobilenet_v2()
    stages = [1, 2, 3, 4, 3, 3, 1]
    places = [f"layer{i + 1}.{k}" for i, n in enumerate(stages) for k in range(n)]

    def inner(found: re.Match) -> str:
        place = found[2]
        if "." in place:
            k, layer = place.split(".")
        else:  # the last convolution and its norm
            k = str(1 if found[1] == "1" else 2)
            layer = str(int(place) - int(k))
        return f"backbone.{places[int(found[1]) - 1]}.conv.{k}.{('conv', 'bn')[int(layer)]}."

    state = renamed(
        oracle.state_dict(),
        (r"features\.(\d+)\.conv\.(\d\.\d|\d)\.", inner),
        (r"features\.0\.0\.", "backbone.conv1.conv."),
        (r"features\.0\.1\.", "backbone.conv1.bn."),
        (r"features\.18\.0\.", "backbone.conv2.conv."),
        (r"features\.18\.1\.", "backbone.conv2.bn."),
        (r"classifier\.1\.", "head.fc."),
    )
    check("mobilenet_v2", "mmpretrain", state, oracle, width_mult=WIDTH)


def test_the_children_of_a_mobilenet_v2():
    oracle = mobilenet_v2()
    children = nn.Sequential(*list(oracle.children())[:-1])
    pooled = nn.Sequential(children, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    check(
        "mobilenet_v2", "children", children.state_dict(), pooled, num_classes=0, width_mult=WIDTH
    )


def numbers(state: State) -> dict[str, int]:
    """timm's `blocks.2.1` -> the block's number in one list."""
    places = dict.fromkeys(re.findall(r"blocks\.\d+\.\d+", " ".join(state)))
    return {place: i for i, place in enumerate(places)}


def kind_of(layer: str) -> str:
    return "normalization" if layer.startswith("bn") else "convolution"


@pytest.mark.parametrize("size", [(64, 64), (37, 51)])
def test_mobilenet_v2_of_transformers(size):
    """With TensorFlow's padding and epsilon, which its default configuration has."""
    oracle = lively(timm.create_model("mobilenetv2_035", num_classes=7, **TIMM_TF))
    places = numbers(oracle.state_dict())

    def inner(found: re.Match) -> str:
        at, layer = places[found[1]], found[2]
        block = f"mobilenet_v2.layer.{at - 1}" if at else "mobilenet_v2.conv_stem"
        step = {
            ("conv_pw", "bn1"): "expand_1x1",
            ("conv_dw", "bn2"): "conv_3x3",
            ("conv_pwl", "bn3"): "reduce_1x1",
        }
        if not at:
            step = {("conv_dw", "bn1"): "conv_3x3", ("conv_pw", "bn2"): "reduce_1x1"}
        name = next(name for layers, name in step.items() if layer in layers)
        return f"{block}.{name}.{kind_of(layer)}."

    state = renamed(
        oracle.state_dict(),
        (r"(blocks\.\d+\.\d+)\.(\w+)\.", inner),
        (r"conv_stem\.", "mobilenet_v2.conv_stem.first_conv.convolution."),
        (r"bn1\.", "mobilenet_v2.conv_stem.first_conv.normalization."),
        (r"conv_head\.", "mobilenet_v2.conv_1x1.convolution."),
        (r"bn2\.", "mobilenet_v2.conv_1x1.normalization."),
        (r"classifier\.", "classifier."),
    )
    check("mobilenet_v2", "transformers", state, oracle, size, width_mult=0.35, **TF)


@pytest.mark.parametrize("size", [(64, 64), (37, 51)])
def test_mobilenet_v1_of_transformers(size):
    oracle = lively(timm.create_model("mobilenetv1_100", num_classes=7, **TIMM_TF))
    places = numbers(oracle.state_dict())

    def inner(found: re.Match) -> str:
        layer = found[2]
        at = 2 * places[found[1]] + (layer in ("conv_pw", "bn2"))
        return f"mobilenet_v1.layer.{at}.{kind_of(layer)}."

    state = renamed(
        oracle.state_dict(),
        (r"(blocks\.\d+\.\d+)\.(\w+)\.", inner),
        (r"conv_stem\.", "mobilenet_v1.conv_stem.convolution."),
        (r"bn1\.", "mobilenet_v1.conv_stem.normalization."),
        (r"classifier\.", "classifier."),
    )
    check("mobilenet_v1", "transformers", state, oracle, size, **TF)
    assert "transformers" not in layouts_of(abstract_model("mobilenetv1_100h"))


class Gate(nn.Module):
    """Linear layers in a Sequential `fc`."""

    def __init__(self, features: int, squeezed: int):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(features, squeezed),
            nn.ReLU(),
            nn.Linear(squeezed, features),
            nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class Bottleneck(nn.Module):
    """d-li14's block: where it widens, its gate stands before the second activation."""

    def __init__(self, inside: int, row: tuple[int, int, int, bool, str, int]):
        super().__init__()
        kernel, hidden, out, gated, name, stride = row
        act = {"relu": nn.ReLU, "hard_swish": nn.Hardswish}[name]
        squeezed = max(8, (hidden // 4 + 4) // 8 * 8)  # never below 90% in these tables
        gate = Gate(hidden, squeezed) if gated else nn.Identity()
        middle = [
            nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
        ]
        end = [nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out)]
        if inside == hidden:
            layers = [*middle, act(), gate, *end]
        else:
            wide = [nn.Conv2d(inside, hidden, 1, bias=False), nn.BatchNorm2d(hidden), act()]
            layers = [*wide, *middle, gate, act(), *end]
        self.conv = nn.Sequential(*layers)
        self.skips = inside == out and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + x if self.skips else self.conv(x)


class MobileNetV3(nn.Module):
    """d-li14's network, nested as it is there."""

    def __init__(self, rows: list[tuple[int, int, int, bool, str, int]], embedded: int):
        super().__init__()

        def conv(a: int, b: int, size: int, stride: int) -> nn.Sequential:
            layer = nn.Conv2d(a, b, size, stride, size // 2, bias=False)
            return nn.Sequential(layer, nn.BatchNorm2d(b), nn.Hardswish())

        widths = [16, *(row[2] for row in rows)]
        blocks = [Bottleneck(a, row) for a, row in zip(widths, rows, strict=False)]
        self.features = nn.Sequential(conv(3, 16, 3, 2), *blocks)
        last = rows[-1][1]
        self.conv = conv(widths[-1], last, 1, 1)
        self.classifier = nn.Sequential(
            nn.Linear(last, embedded), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(embedded, 6)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.conv(self.features(x)).mean((2, 3)))


ROWS: list[tuple[int, int, int, bool, str, int]] = [
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (5, 96, 40, True, "hard_swish", 2),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 144, 24, True, "relu", 1),
]


def test_mobilenet_v3_of_d_li14():
    oracle = lively(MobileNetV3(ROWS, 32))
    rows: dict[str, Any] = {"inverted_residual_setting": ROWS, "last_features": 32}
    assert ROWS[-1][1] == 6 * ROWS[-1][2], "what ours takes for the last convolution's width"
    settings = {**rows, "gates_first": True, "norm_eps": 1e-5}
    check("mobilenet_v3_small", "d-li14", oracle.state_dict(), oracle, **settings)
    assert "d-li14" not in layouts_of(abstract_model("mobilenet_v3_small"))
