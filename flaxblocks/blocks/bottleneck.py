"""The bottleneck residual block of ResNet: reduce, convolve, expand, add."""

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

    `reduce` is a 1x1 `ConvNormAct` to the inner width, `conv` a 3x3 one with the stride (unless
    `reduce` has it), and `expand` a 1x1 one without activation. `shortcut` is a 1x1 `ConvNormAct`
    if the shape changes, else the identity. The defaults are the article's; for ResNet's block set
    `bias=False, shortcut_activation=None`, for ResNeXt's also `groups`, the paper's cardinality.

    Source: He et al. 2016, https://arxiv.org/abs/1512.03385, figure 5; with the stride in the 3x3
        as in ResNet v1.5. Xie et al. 2017, https://arxiv.org/abs/1611.05431, figure 3c.
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
            reduction: sets the inner width to `out_features // reduction`.
            hidden_features: the inner width itself; overrides `reduction`.
            groups: number of channel groups of the 3x3 convolution.
            stride: stride of the branch and of the shortcut.
            stride_in: which convolution of the branch has the stride: the 3x3, as in ResNet v1.5
                and torchvision, or the first 1x1, as in the paper, Caffe and detectron2's
                `STRIDE_IN_1X1`.
            bias: whether the convolutions have a bias.
            norm: the norm after each convolution: its name, a callable that builds it, or None.
            activation: activation after each of the first two convolutions.
            final_activation: activation after the addition.
            shortcut_activation: activation after the shortcut's 1x1; the article has a ReLU, ResNet
                none.
            shortcut_bias: whether the shortcut's convolution has a bias; None is `bias`.
            squeeze_excite: gate of the inner channels: the reduction of a `SqueezeExcite`, a
                callable that builds a gate, or None.
            gate_output: place the gate after the branch's last norm, as SE-ResNet does, rather than
                before `expand`, as RegNetY does.
            antialias: "avg" or "blur" replaces the stride of the convolution by an average or blur
                pool after it.
            pool_shortcut: replace the stride of the shortcut by an average pool (ResNet-D).
            stochastic_depth: probability of dropping the branch in training.
            zero_init_last: initialise the scale of the branch's last norm to 0.
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters.
            kernel_init: initialiser of the kernels; by default PyTorch's.
            rngs: random streams: `params`, and `dropout` if `stochastic_depth` is above 0.

        Raises: ValueError if a number is out of range, `reduction` leaves no channel, or
            `antialias` is given together with `stride_in="1x1"`.
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
        """Map `x` `(N, H, W, in_features)` to
        `(N, ceil(H / stride), ceil(W / stride), out_features)`.
        """
        y = apply(x, self.reduce, self.conv, self.antialias)
        ends = (self.squeeze_excite, self.expand)
        y = apply(y, *(reversed(ends) if self.gate_output else ends), self.stochastic_depth)
        skip = apply(x, self.shortcut_pool, self.shortcut)
        return self.final_activation(y + skip.astype(y.dtype))


class LinearBottleNeck(BottleNeck):
    """`BottleNeck` without an activation after the addition: `final_activation=None`."""

    layouts = {"article": _article("0")}
    __init__ = with_defaults(BottleNeck.__init__, final_activation=None)
