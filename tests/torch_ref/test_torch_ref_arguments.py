"""The arguments of the twins: norms and activations by name, and the errors that refuse others."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.support import read_facts
from torch_ref.blocks import (
    BottleNeck,
    ConvNormAct,
    DepthWiseSeparableConv,
    FusedMBConv,
    InvertedResidual,
    LinearBottleNeck,
    MBConv,
    MobileNetLikeBlock,
    ResidualAdd,
    SqueezeExcite,
    make_divisible,
)
from torch_ref.blocks.channels import expanded_features

QUIRKS = read_facts("mobilenetv2")["_quirks"]


@pytest.mark.parametrize("case", QUIRKS["make_divisible"].items())
def test_make_divisible(case: tuple[str, int]) -> None:
    value, divisor = case[0].split(",")
    assert make_divisible(float(value), int(divisor)) == case[1]


def test_make_divisible_keeps_the_minimum() -> None:
    assert make_divisible(3, 4) == 4
    assert make_divisible(20, 8, min_value=32) == 32
    assert make_divisible(20, 8, min_value=16) == 24


def test_half_a_channel_of_an_expansion_is_rounded() -> None:
    assert expanded_features(17, 1.5) == QUIRKS["expand float 1.5 hidden"]


def test_norm_and_activation_choices() -> None:
    bare = ConvNormAct(4, 4, 1, norm=None, activation=None)
    assert list(bare.state_dict()) == ["0.weight", "0.bias"]
    assert len(bare) == 1
    group = ConvNormAct(4, 64, 1, norm="group_norm")[1]
    assert isinstance(group, nn.GroupNorm)
    assert (group.num_groups, group.num_channels, group.eps) == (32, 64, 1e-5)
    custom = ConvNormAct(
        4, 6, 1, norm=lambda features: nn.BatchNorm2d(features, eps=1e-3), activation=nn.PReLU
    )
    assert isinstance(custom[1], nn.BatchNorm2d)
    assert (custom[1].eps, custom[1].num_features) == (1e-3, 6)
    assert isinstance(custom[2], nn.PReLU)


@pytest.mark.parametrize(
    "block", [BottleNeck, InvertedResidual, MobileNetLikeBlock, MBConv, FusedMBConv]
)
def test_a_final_activation_with_weights_has_the_articles_key(
    block: Callable[..., nn.Module],
) -> None:
    added = set(block(8, 8, final_activation=nn.PReLU).state_dict()) - set(block(8, 8).state_dict())
    assert added == {"0.1.weight"}


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("relu", lambda v: max(v, 0.0)),
        ("relu6", lambda v: min(max(v, 0.0), 6.0)),
        ("silu", lambda v: v / (1 + math.exp(-v))),
        ("hard_swish", lambda v: v * min(max(v + 3, 0.0), 6.0) / 6),
        ("hard_sigmoid", lambda v: min(max(v + 3, 0.0), 6.0) / 6),
        ("sigmoid", lambda v: 1 / (1 + math.exp(-v))),
        ("gelu", lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2),
        ("tanh", math.tanh),
        ("elu", lambda v: v if v > 0 else math.exp(v) - 1),
        ("leaky_relu", lambda v: v if v > 0 else 0.01 * v),
        ("mish", lambda v: v * math.tanh(math.log1p(math.exp(v)))),
        (None, lambda v: v),
    ],
)
def test_activation_is_its_formula(name: str | None, formula: Callable[[float], float]) -> None:
    values = [-7.0, -2.5, -0.3, 0.0, 0.4, 2.0, 5.5, 7.5]
    module = ConvNormAct(1, 1, 1, bias=False, norm=None, activation=name).double()
    nn.init.ones_(module[0].weight)  # type: ignore[arg-type]
    x = torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)
    expected = torch.tensor([formula(v) for v in values], dtype=torch.float64)
    # Float64 rounding of exp, erf and tanh from two libraries.
    torch.testing.assert_close(module(x).flatten(), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConvNormAct(0, 4, 3), r"`in_features` \(=0\) must be an integer of at least 1"),
        (lambda: ConvNormAct(4, -2, 3), r"`out_features` \(=-2\)"),
        (lambda: ConvNormAct(4, 2.0, 3), r"`out_features` \(=2.0\)"),  # type: ignore[arg-type]
        (lambda: ConvNormAct(4, 4, 0), r"`kernel_size` \(=0\)"),
        (lambda: ConvNormAct(4, 4, 3, stride=0), r"`stride` \(=0\)"),
        (lambda: ConvNormAct(4, 4, 3, dilation=0), r"`dilation` \(=0\)"),
        (lambda: ConvNormAct(4, 4, 3, groups=0), r"`groups` \(=0\)"),
        (lambda: ConvNormAct(4, 4, 3, padding=-1), r"`padding` \(=-1\) must be at least 0"),
        (
            lambda: ConvNormAct(30, 8, 3, groups=4),
            r"`in_features` \(=30\) must be divisible by `groups` \(=4\)",
        ),
        (
            lambda: ConvNormAct(8, 30, 3, groups=4),
            r"`out_features` \(=30\) must be divisible by `groups` \(=4\)",
        ),
        (
            lambda: ConvNormAct(4, 4, 3, norm="bn"),
            r"`norm` \(='bn'\) must be None, a factory or one of batch_norm",
        ),
        (
            lambda: ConvNormAct(4, 4, 3, activation="swish"),
            r"`activation` \(='swish'\) must be None, a factory or",
        ),
        (lambda: BottleNeck(32, 2), r"`reduction` \(=4\) must not exceed `out_features` \(=2\)"),
        (lambda: LinearBottleNeck(8, 8, reduction=0), r"`reduction` \(=0\)"),
        (lambda: BottleNeck(8, 8, stride=0), r"`stride` \(=0\)"),
        (lambda: InvertedResidual(0, 8), r"`in_features` \(=0\)"),
        (lambda: InvertedResidual(8, 8, kernel_size=0), r"`kernel_size` \(=0\)"),
        (
            lambda: MBConv(4, 8, expansion=0.1),
            r"`expansion` \(=0.1\) must leave a channel of `in_features` \(=4\)",
        ),
        (lambda: MBConv(8, 8, squeeze_excite=0), r"`squeeze_excite` \(=0\)"),
        (
            lambda: MBConv(2, 8, squeeze_excite=9),
            r"`reduction` \(=9\) must not exceed `features` \(=8\)",
        ),
        (lambda: FusedMBConv(8, 0), r"`out_features` \(=0\)"),
        (lambda: FusedMBConv(8, 8, expansion=-1), r"`expansion` \(=-1\)"),
        (
            lambda: SqueezeExcite(3),
            r"`reduction` \(=4\) must not exceed `features` \(=3\): no channel would be left",
        ),
        (lambda: SqueezeExcite(3, squeezed_features=0), r"`squeezed_features` \(=0\)"),
        (lambda: DepthWiseSeparableConv(4, 0), r"`out_features` \(=0\)"),
        (lambda: DepthWiseSeparableConv(4, 4, padding=-1), r"`padding` \(=-1\)"),
        (lambda: make_divisible(10, 0), r"`divisor` \(=0\)"),
        (
            lambda: ResidualAdd(nn.Conv2d(1, 4, 1))(
                torch.zeros(1, 1, 2, 2)
            ),  # PyTorch would broadcast
            r"`block` gives shape \(1, 4, 2, 2\): must equal the shortcut's \(1, 1, 2, 2\)",
        ),
    ],
)
def test_errors_name_argument_value_and_rule(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
