"""The bottleneck residual block: narrow, convolve, widen, add."""

from functools import partial
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxblocks.blocks.conv_norm_act import ConvNormAct
from flaxblocks.blocks.residual import (
    apply,
    make_stochastic_depth,
    shortcut_pool,
    zero_scale,
)
from flaxblocks.blocks.squeeze_excite import SqueezeExciteChoice, make_squeeze_excite
from flaxblocks.nn.activation import Activation, get_activation
from flaxblocks.nn.arguments import check_choice, check_positive, with_defaults
from flaxblocks.nn.init import Initializer, uniform_fan_in
from flaxblocks.nn.norm import Norm
from flaxblocks.nn.pool import Antialias, make_antialias

__all__ = ["BottleNeck", "LinearBottleNeck", "StridePlace"]

StridePlace = Literal["3x3", "1x1"]


def _article(prefix: str):
    def keys(block: nnx.Module):
        layers = ("reduce", "conv", "squeeze_excite", "expand")
        present = [name for name in layers if getattr(block, name) is not None]
        for i, name in enumerate(present):
            yield name, f"{prefix}.block.{i}"
        yield "shortcut", f"{prefix}.shortcut"

    return keys


class BottleNeck(nnx.Module):
    """final_activation(expand(squeeze_excite(conv(reduce(x)))) + shortcut(x)); absent layers are
    None.

    `reduce` is 1x1 to the block's inner width, `conv` 3x3 with the stride unless `reduce` has it,
    `expand` 1x1 without activation. `shortcut` is a 1x1 `ConvNormAct` where the shape changes,
    else the identity. The defaults are the article's; ResNet's block is `bias=False,
    shortcut_activation=None`, and ResNeXt's has `groups`, the paper's cardinality, besides.

    Source: He et al. 2016, https://arxiv.org/abs/1512.03385, figure 5; stride in the 3x3 as in
        ResNet v1.5. Xie et al. 2017, https://arxiv.org/abs/1611.05431, figure 3c.
    """

    layouts = {"article": _article("0.0")}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        reduction: int = 4,
        hidden_features: int | None = None,
        groups: int = 1,
        stride: int = 1,
        stride_in: StridePlace = "3x3",
        bias: bool = True,
        norm: Norm = "batch_norm",
        activation: Activation = "relu",
        final_activation: Activation = "relu",
        shortcut_activation: Activation = "relu",
        shortcut_bias: bool | None = None,
        squeeze_excite: SqueezeExciteChoice = None,
        gate_output: bool = False,
        antialias: Antialias = None,
        pool_shortcut: bool = False,
        stochastic_depth: float = 0.0,
        zero_init_last: bool = False,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: Initializer = uniform_fan_in,
        rngs: nnx.Rngs,
    ):
        """Build the branches.

        Args:
            in_features: channels of the input.
            out_features: channels of the output.
            reduction: the block's inner width is `out_features // reduction`.
            hidden_features: the inner width itself, in place of `reduction`.
            groups: channel groups of the 3x3 convolution.
            stride: of the branch and of the shortcut.
            stride_in: the branch's convolution that has it: the 3x3, as ResNet v1.5 and
                torchvision, or the first 1x1, as the paper, Caffe and detectron2's `STRIDE_IN_1X1`.
            bias: of the convolutions.
            norm: after each convolution; a name, what builds a norm, or None.
            activation: after the first two convolutions.
            final_activation: after the addition.
            shortcut_activation: at the end of the shortcut's 1x1; the article has a ReLU, ResNet
                none.
            shortcut_bias: of the shortcut's convolution; None is `bias`.
            squeeze_excite: a reduction, what builds a `SqueezeExcite` of the inner channels, or
                None.
            gate_output: gate the branch after its last norm (SE-ResNet) rather than the inner
                channels before it (RegNetY).
            antialias: "avg" or "blur" takes the stride out of the convolution and puts such a pool
                after it.
            pool_shortcut: average-pool the shortcut in place of its stride (ResNet-D).
            stochastic_depth: probability of dropping the branch in training.
            zero_init_last: start the branch at 0, by the scale of its last norm.
            dtype: of the computation; None takes the widest of input and parameters.
            param_dtype: of the parameters.
            kernel_init: draws the kernels; PyTorch's default unless given.
            rngs: `params` is drawn from; `dropout` too if `stochastic_depth` is above 0.

        Raises: ValueError if a number is out of range, `reduction` leaves no channel, or
            `antialias` would have to go between the first convolutions.
        """
        check_positive(
            in_features=in_features, out_features=out_features, reduction=reduction, stride=stride
        )
        check_choice("stride_in", stride_in, ("3x3", "1x1"))
        if stride_in == "1x1" and antialias is not None:
            raise ValueError(
                f"`stride_in` (='1x1') and `antialias` (={antialias!r}) exclude each other"
            )
        if hidden_features is not None:
            check_positive(hidden_features=hidden_features)
        reduced = out_features // reduction if hidden_features is None else hidden_features
        if reduced < 1:
            raise ValueError(
                f"`reduction` (={reduction}) leaves no channel of `out_features` "
                f"(={out_features}): `out_features // reduction` must be at least 1"
            )
        types = {
            "dtype": dtype,
            "param_dtype": param_dtype,
            "kernel_init": kernel_init,
            "rngs": rngs,
        }
        layer = partial(ConvNormAct, bias=bias, norm=norm, **types)
        self.antialias = make_antialias(antialias, stride)
        branch_stride = stride if self.antialias is None else 1
        first_stride, conv_stride = (branch_stride, 1) if stride_in == "1x1" else (1, branch_stride)
        gated = out_features if gate_output else reduced
        self.gate_output = gate_output
        self.reduce = layer(in_features, reduced, 1, stride=first_stride, activation=activation)
        self.conv = layer(
            reduced, reduced, 3, stride=conv_stride, groups=groups, activation=activation
        )
        self.squeeze_excite = make_squeeze_excite(squeeze_excite, gated, **types)
        self.expand = layer(reduced, out_features, 1, activation=None)
        self.pool_shortcut = pool_shortcut
        self.shortcut_pool = shortcut_pool(stride) if pool_shortcut else None
        shortcut_stride = stride if self.shortcut_pool is None else 1
        shortcut = partial(
            layer,
            in_features,
            out_features,
            1,
            stride=shortcut_stride,
            bias=bias if shortcut_bias is None else shortcut_bias,
            activation=shortcut_activation,
        )
        self.shortcut = shortcut() if in_features != out_features or stride != 1 else None
        self.stochastic_depth = make_stochastic_depth(stochastic_depth, rngs)
        self.final_activation = get_activation(final_activation, "final_activation")
        if zero_init_last:
            zero_scale(self.expand.norm)

    def __call__(self, x: Float[Array, "N H W I"]) -> Float[Array, "N Ho Wo O"]:
        """`(N, H, W, in_features)` to `(N, H / stride, W / stride, out_features)`, sizes rounded
        up.
        """
        y = apply(x, self.reduce, self.conv, self.antialias)
        ends = (self.squeeze_excite, self.expand)
        y = apply(y, *(reversed(ends) if self.gate_output else ends), self.stochastic_depth)
        skip = apply(x, self.shortcut_pool, self.shortcut)
        return self.final_activation(y + skip.astype(y.dtype))


class LinearBottleNeck(BottleNeck):
    """`BottleNeck` without the activation after the addition: `final_activation=None`."""

    layouts = {"article": _article("0")}
    __init__ = with_defaults(BottleNeck.__init__, final_activation=None)
