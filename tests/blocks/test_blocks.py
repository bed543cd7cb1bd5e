"""The blocks by themselves: structure, published parameter counts, errors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxblocks import blocks
from flaxblocks.blocks import (
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
    SqueezeExcite,
    make_divisible,
)
from flaxblocks.nn import Conv
from tests.support import read_facts

FACTS = read_facts("article_blocks")


def of(block, *widths, **options):
    return lambda: block(*widths, **options, rngs=nnx.Rngs(0))


def conv(in_features, out_features, kernel_size=1):
    return Conv(in_features, out_features, kernel_size, rngs=nnx.Rngs(0))


# The article's code drops the arguments of its convolutions; what it built is written out here.
PUBLISHED = {
    "Conv1X1BnReLU(32,64)": of(Conv1X1BnReLU, 32, 64),
    "Conv3X3BnReLU(32,64)": of(Conv3X3BnReLU, 32, 64),
    "Conv3X3BnReLU(32,32,groups=32)": of(Conv3X3BnReLU, 32, 32),
    "Conv3X3BnReLU(32,64,stride=2,bias=False,dilation=2)": of(Conv3X3BnReLU, 32, 64),
    "ConvNormAct k=2 (even)": of(ConvNormAct, 32, 64, 2),
    "ConvNormAct k=5": of(ConvNormAct, 32, 64, 5),
    "ResidualAddPlain(Conv2d(32,32,1))": lambda: ResidualAdd(conv(32, 32)),
    "ResidualAdd(Conv2d(32,64,1),shortcut=Conv2d(32,64,1))": lambda: ResidualAdd(
        conv(32, 64), conv(32, 64)
    ),
    "BottleNeck(32,64)": of(BottleNeck, 32, 64),
    "BottleNeck(64,64)": of(BottleNeck, 64, 64),
    "BottleNeck(256,256)": of(BottleNeck, 256, 256),
    "LinearBottleNeck(32,64) (BottleNeck minus last ReLU)": of(LinearBottleNeck, 32, 64),
    "InvertedResidual(32,64)": of(InvertedResidual, 32, 64),
    "InvertedResidual(32,32)": of(InvertedResidual, 32, 32),
    "MobileNetLikeBlock(32,64)": of(MobileNetLikeBlock, 32, 64),
    "MobileNetLikeBlock(32,32)": of(MobileNetLikeBlock, 32, 32),
    "DepthWiseSeparableConv(32,64)": of(DepthWiseSeparableConv, 32, 64),
    "Conv2d(32,64,3)": lambda: conv(32, 64, 3),
    "MBConv(32,64)": of(MBConv, 32, 64, depthwise=False),
    "MBConv(32,32)": of(MBConv, 32, 32, depthwise=False),
    "FusedMBConv(32,64)": of(FusedMBConv, 32, 64),
    "FusedMBConv(32,32)": of(FusedMBConv, 32, 32),
}
CORRECTED = [name for name in FACTS if name.startswith("CORRECTED")]


def count(state) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.to_pure_dict(state)))


def output_shape(block, facts):
    batch, channels, height, width = facts.get("input") or [1, 32, 56, 56]
    x = jax.ShapeDtypeStruct((batch, height, width, channels), jnp.float32)
    n, h, w, c = nnx.eval_shape(lambda block, x: block(x), block, x).shape
    return [n, c, h, w]


def test_every_published_block_is_covered():
    assert set(PUBLISHED) | set(CORRECTED) | {"_quirks"} == set(FACTS)
    assert len(CORRECTED) == 20


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_block(name):
    facts = FACTS[name]
    block = nnx.eval_shape(PUBLISHED[name])
    assert count(nnx.state(block, nnx.Param)) == facts["params"]
    assert count(nnx.state(block, nnx.BatchStat)) == facts["buffers"]
    assert len(jax.tree.leaves(nnx.state(block))) == facts["n_state"]
    assert output_shape(block, facts) == facts["output"]


@pytest.mark.parametrize("name", CORRECTED)
def test_corrected_block(name):
    match = re.fullmatch(
        r"CORRECTED (\w+)\((\d+), (\d+)\) \[kwargs forwarded, (bias kept|bias=False)\]", name
    )
    assert match
    make = getattr(blocks, match[1])
    block = nnx.eval_shape(of(make, int(match[2]), int(match[3]), bias=match[4] == "bias kept"))
    assert count(nnx.state(block, nnx.Param)) == FACTS[name]["params"]
    assert output_shape(block, FACTS[name]) == FACTS[name]["output"]


@pytest.mark.parametrize(
    ("make", "parameters", "shape"),
    [
        # 32 * 9 weights, 32 biases, 64 of the norm: groups reach the convolution.
        (of(Conv3X3BnReLU, 32, 32, groups=32), 384, [1, 32, 56, 56]),
        # Padding stays 1 under dilation 2.
        (
            of(Conv3X3BnReLU, 32, 64, stride=2, bias=False, dilation=2),
            18_560,
            [1, 64, 27, 27],
        ),
        # A shortcut appears with the stride alone: 32 * 32 + 32 + 64 more than without.
        (of(BottleNeck, 32, 32, stride=2), 1_232 + 1_120, [1, 32, 28, 28]),
        (of(LinearBottleNeck, 32, 32, stride=2), 1_232 + 1_120, [1, 32, 28, 28]),
        (of(InvertedResidual, 32, 32, stride=2), 156_512 + 1_120, [1, 32, 28, 28]),
        (of(MBConv, 32, 32, stride=2), 10_208, [1, 32, 28, 28]),
        # Two 1x1 convolutions with bias.
        (of(SqueezeExcite, 32, reduction=2), 32 * 16 + 16 + 16 * 32 + 32, [1, 32, 56, 56]),
    ],
)
def test_arguments_reach_the_layers(make, parameters, shape):
    block = nnx.eval_shape(make)
    assert count(nnx.state(block, nnx.Param)) == parameters
    assert output_shape(block, {}) == shape


ERRORS = [
    (of(ConvNormAct, 0, 8, 3), r"`in_features` \(=0\) must be an integer of at least 1"),
    (of(ConvNormAct, 4, 8, 0), r"`kernel_size` \(=0\) must be at least 1"),
    (of(ConvNormAct, 4, 8, 3, stride=0), r"`stride` \(=0\) must be at least 1"),
    (of(ConvNormAct, 4, 8, 3, padding=-1), r"`padding` \(=-1\) must be at least 0"),
    (of(ConvNormAct, 4, 8, 3, groups=3), r"`in_features` \(=4\) must be divisible by `groups`"),
    (of(ConvNormAct, 4, 8, 3, norm="layer"), r"`norm` \(='layer'\) must be one of \['batch_norm'"),
    (of(ConvNormAct, 4, 8, 3, activation="swish"), r"`activation` \(='swish'\) must be one of"),
    (of(ConvNormAct, 4, 8, 3, norm="group_norm"), r"`num_features` \(=8\) must be divisible by"),
    (of(BottleNeck, 8, 0), r"`out_features` \(=0\) must be an integer of at least 1"),
    (of(BottleNeck, 8, 8, reduction=0), r"`reduction` \(=0\) must be an integer of at least 1"),
    (
        of(BottleNeck, 32, 2),
        r"`reduction` \(=4\) leaves no channel of `out_features` \(=2\): .* must be at least 1",
    ),
    (of(BottleNeck, 8, 8, final_activation="x"), r"`final_activation` \(='x'\) must be one of"),
    (of(LinearBottleNeck, 32, 3), r"`reduction` \(=4\) leaves no channel of `out_features` \(=3\)"),
    (of(InvertedResidual, 8, 8, stride=0), r"`stride` \(=0\) must be an integer of at least 1"),
    (
        of(InvertedResidual, 8, 8, expansion=0.01),
        r"`expansion` \(=0.01\) leaves no channel of `in_features` \(=8\): .* must be at least 1",
    ),
    (of(MBConv, 8, 8, expansion=-1), r"`expansion` \(=-1\) leaves no channel"),
    (
        of(MBConv, 8, 8, fused=True),
        r"`depthwise` \(=True\) and `fused` \(=True\) exclude each other",
    ),
    (
        of(MBConv, 2, 8, squeeze_excite=9),
        r"`reduction` \(=9\) leaves no channel of `features` \(=8\)",
    ),
    (of(DepthWiseSeparableConv, 0, 8), r"`in_features` \(=0\) must be an integer of at least 1"),
    (of(DepthWiseSeparableConv, 8, 8, stride=0), r"`stride` \(=0\) must be at least 1"),
    (of(SqueezeExcite, 0), r"`features` \(=0\) must be an integer of at least 1"),
    (of(SqueezeExcite, 8, reduction=9), r"`reduction` \(=9\) leaves no channel of `features`"),
    (
        of(SqueezeExcite, 8, squeezed_features=0),
        r"`squeezed_features` \(=0\) must be an integer of at least 1",
    ),
    (of(SqueezeExcite, 8, gate="soft"), r"`gate` \(='soft'\) must be one of"),
]


@pytest.mark.parametrize(("make", "message"), ERRORS)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (11.2, 16),
        (18, 24),
        (33.6, 32),
        (3, 8),
        (19, 24),
        (20, 24),
        (22.4, 24),
        (8, 8),
        (1280, 1280),
    ],
)
def test_make_divisible(value, expected):
    assert make_divisible(value) == expected


@pytest.mark.parametrize("case", read_facts("mobilenetv2")["_quirks"]["make_divisible"].items())
def test_make_divisible_gives_what_torchvisions_gives(case):
    value, divisor = case[0].split(",")
    assert make_divisible(float(value), int(divisor)) == case[1]


def test_make_divisible_by_another_divisor_and_minimum():
    assert make_divisible(33, 16) == 32
    assert make_divisible(10, 9) == 9  # 90% exactly is not below it
    assert make_divisible(3, minimum=16) == 16
    assert make_divisible(90, 100, minimum=90) == 100
    with pytest.raises(ValueError, match=r"`divisor` \(=0\) must be an integer of at least 1"):
        make_divisible(8, 0)


@pytest.mark.parametrize("shape", [(2, 5, 4, 1), (2, 1, 1, 6), (1, 5, 4, 6)])
def test_residual_add_broadcasts_nothing(shape):
    x = jnp.ones((2, 5, 4, 6))
    for block in (
        ResidualAdd(lambda _: jnp.ones(shape)),
        ResidualAdd(lambda x: x, lambda _: jnp.ones(shape)),
    ):
        with pytest.raises(
            ValueError, match=r"the block gives shape .* and the shortcut .*`shortcut` must"
        ):
            block(x)


def test_residual_add_adds():
    x = jnp.asarray([[1.0, 2.0]])
    np.testing.assert_array_equal(ResidualAdd(lambda x: 3 * x)(x), [[4, 8]])
    np.testing.assert_array_equal(ResidualAdd(lambda x: 3 * x, lambda x: -x)(x), [[2, 4]])


def test_layers_present():
    block = MBConv(8, 8, expansion=1, always_expand=False, rngs=nnx.Rngs(0))
    assert block.expand is None
    assert block.residual
    assert block.shortcut is None
    assert block.conv.conv.groups == 8
    assert MBConv(8, 8, expansion=1, rngs=nnx.Rngs(0)).expand is not None
    rounded = MBConv(8, 8, expansion=1.05, always_expand=False, rngs=nnx.Rngs(0))  # to 8 again
    assert rounded.expand is not None
    assert FusedMBConv(8, 8, rngs=nnx.Rngs(0)).expand is None
    assert not MBConv(8, 16, rngs=nnx.Rngs(0)).residual
    assert not MBConv(8, 8, stride=2, rngs=nnx.Rngs(0)).residual
    wide = InvertedResidual(8, 16, rngs=nnx.Rngs(0))
    assert wide.residual
    assert wide.shortcut is not None
    assert wide.shortcut.conv.kernel.shape == (1, 1, 8, 16)


def test_padding_is_half_the_kernel_whatever_the_dilation():
    for kernel, dilation, padding in ((3, 1, (1, 1)), (2, 1, (1, 1)), ((5, 1), 2, (2, 0))):
        block = ConvNormAct(4, 4, kernel, dilation=dilation, rngs=nnx.Rngs(0))
        assert block.conv.padding == padding
    assert ConvNormAct(4, 4, 3, padding=0, rngs=nnx.Rngs(0)).conv.padding == (0, 0)


def test_expansion_halves_round_to_even():
    assert InvertedResidual(5, 8, expansion=0.5, rngs=nnx.Rngs(0)).conv.conv.out_features == 2
    assert InvertedResidual(7, 8, expansion=0.5, rngs=nnx.Rngs(0)).conv.conv.out_features == 4


def test_squeeze_excite_gate_is_constant_over_the_image():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 4, 8)), jnp.float32)
    gate = SqueezeExcite(8, rngs=nnx.Rngs(0))(x) / x
    np.testing.assert_allclose(gate, jnp.broadcast_to(gate[:, :1, :1], x.shape), rtol=1e-5)
    assert float(gate.min()) > 0
    assert float(gate.max()) < 1
