"""The twins of the blocks against what the articles' code does: keys, order, shapes, counts."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.support import read_facts
from torch_ref import blocks
from torch_ref.blocks import (
    BottleNeck,
    Conv1X1BnReLU,
    Conv3X3BnReLU,
    ConvNormAct,
    DepthWiseSeparableConv,
    FusedMBConv,
    InvertedResidual,
    LinearBottleNeck,
    MBConv,
    MobileNetLikeBlock,
    ResidualAdd,
)

FACTS = read_facts("article_blocks")

# The article's literal code drops conv arguments: its groups, strides and depthwise forms have no
# effect.
LITERAL: dict[str, Callable[[], nn.Module]] = {
    "Conv1X1BnReLU(32,64)": lambda: Conv1X1BnReLU(32, 64),
    "Conv3X3BnReLU(32,64)": lambda: Conv3X3BnReLU(32, 64),
    "Conv3X3BnReLU(32,32,groups=32)": lambda: Conv3X3BnReLU(32, 32),
    "Conv3X3BnReLU(32,64,stride=2,bias=False,dilation=2)": lambda: Conv3X3BnReLU(32, 64),
    "ConvNormAct k=2 (even)": lambda: ConvNormAct(32, 64, 2),
    "ConvNormAct k=5": lambda: ConvNormAct(32, 64, 5),
    "ResidualAddPlain(Conv2d(32,32,1))": lambda: ResidualAdd(nn.Conv2d(32, 32, 1)),
    "ResidualAdd(Conv2d(32,64,1),shortcut=Conv2d(32,64,1))": lambda: ResidualAdd(
        nn.Conv2d(32, 64, 1), shortcut=nn.Conv2d(32, 64, 1)
    ),
    "BottleNeck(32,64)": lambda: BottleNeck(32, 64),
    "BottleNeck(64,64)": lambda: BottleNeck(64, 64),
    "BottleNeck(256,256)": lambda: BottleNeck(256, 256),
    "LinearBottleNeck(32,64) (BottleNeck minus last ReLU)": lambda: LinearBottleNeck(32, 64),
    "InvertedResidual(32,64)": lambda: InvertedResidual(32, 64),
    "InvertedResidual(32,32)": lambda: InvertedResidual(32, 32),
    "MobileNetLikeBlock(32,64)": lambda: MobileNetLikeBlock(32, 64),
    "MobileNetLikeBlock(32,32)": lambda: MobileNetLikeBlock(32, 32),
    "DepthWiseSeparableConv(32,64)": lambda: DepthWiseSeparableConv(32, 64),
    "Conv2d(32,64,3)": lambda: ConvNormAct(32, 64, 3, padding=0, norm=None, activation=None),
    "MBConv(32,64)": lambda: MBConv(32, 64, depthwise=False),
    "MBConv(32,32)": lambda: MBConv(32, 32, depthwise=False),
    "FusedMBConv(32,64)": lambda: FusedMBConv(32, 64),
    "FusedMBConv(32,32)": lambda: FusedMBConv(32, 32),
}
CORRECTED = [name for name in FACTS if name.startswith("CORRECTED")]


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def output_shape(module: nn.Module, shape: list[int]) -> list[int]:
    with torch.device("meta"):
        return list(module.to("meta").eval()(torch.empty(shape)).shape)


def test_every_listed_block_is_covered() -> None:
    assert set(LITERAL) | set(CORRECTED) | {"_quirks"} == set(FACTS)
    assert len(CORRECTED) == 20


@pytest.mark.parametrize("name", LITERAL)
def test_literal_block(name: str) -> None:
    facts = FACTS[name]
    module = LITERAL[name]()
    state = {key: list(value.shape) for key, value in module.state_dict().items()}
    if (
        name == "Conv2d(32,64,3)"
    ):  # the fact is of a bare convolution, ours is the first of a Sequential
        state = {key.removeprefix("0."): shape for key, shape in state.items()}
    assert list(state.items()) == list(facts["state"].items())  # as lists: the order counts
    assert len(state) == facts["n_state"]
    assert count_parameters(module) == facts["params"]
    assert sum(buffer.numel() for buffer in module.buffers()) == facts["buffers"]
    assert output_shape(module, facts["input"]) == facts["output"]


@pytest.mark.parametrize("name", CORRECTED)
def test_corrected_block(name: str) -> None:
    match = re.fullmatch(
        r"CORRECTED (\w+)\((\d+), (\d+)\) \[kwargs forwarded, (bias kept|bias=False)\]", name
    )
    assert match
    block = getattr(blocks, match[1])
    module = block(int(match[2]), int(match[3]), bias=match[4] == "bias kept")
    assert count_parameters(module) == FACTS[name]["params"]
    assert output_shape(module, [1, int(match[2]), 56, 56]) == FACTS[name]["output"]


def test_depthwise_is_depthwise_by_default() -> None:
    for block, inner in ((MBConv(32, 32), "0.0.block.1.0"), (MBConv(32, 64), "0.0.0.1.0")):
        assert block.state_dict()[f"{inner}.weight"].shape == (128, 1, 3, 3)
        assert block.get_submodule(inner).groups == 128


def test_conv_arguments_reach_the_convolution() -> None:
    # 32 * 9 weights, 32 biases, 64 of the norm; the article's code had 9,312.
    assert count_parameters(Conv3X3BnReLU(32, 32, groups=32)) == 384
    strided = Conv3X3BnReLU(32, 64, stride=2, bias=False, dilation=2)
    assert "0.bias" not in strided.state_dict()
    assert count_parameters(strided) == 18_560
    assert output_shape(strided, [1, 32, 56, 56]) == [
        1,
        64,
        27,
        27,
    ]  # padding stays 1 under dilation 2


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        # A shortcut appears with the stride alone: 32 * 32 + 32 + 64 more than (32, 32).
        (lambda: BottleNeck(32, 32, stride=2), 1_232 + 1_120),
        (lambda: LinearBottleNeck(32, 32, stride=2), 1_232 + 1_120),
        (lambda: InvertedResidual(32, 32, stride=2), 156_512 + 1_120),
        (lambda: MobileNetLikeBlock(32, 32, stride=2), 156_512),
        (lambda: MBConv(32, 32, stride=2), 10_208),
        (lambda: FusedMBConv(32, 32, stride=2), 41_440),
    ],
)
def test_stride_halves_and_keeps_the_widths(arguments: Callable[[], nn.Module], count: int) -> None:
    assert count_parameters(arguments()) == count
    assert output_shape(arguments(), [2, 32, 9, 14]) == [2, 32, 5, 7]
