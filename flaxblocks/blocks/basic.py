"""The basic residual block: two 3x3 convolutions, add."""

from functools import partial

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
from flaxblocks.nn.arguments import check_positive
from flaxblocks.nn.init import Initializer, uniform_fan_in
from flaxblocks.nn.norm import Norm
from flaxblocks.nn.pool import Antialias, make_antialias

__all__ = ["BasicBlock"]


class BasicBlock(nnx.Module):
    """final_activation(conv2(conv1(x)) + shortcut(x)).

    `conv1` is 3x3 with the stride, `conv2` 3x3 without activation. `shortcut` is a 1x1
    `ConvNormAct` without activation where the shape changes, else the identity.

    Source: He et al. 2016, https://arxiv.org/abs/1512.03385, figure 5, left.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        stride: int = 1,
        bias: bool = False,
        norm: Norm = "batch_norm",
        activation: Activation = "relu",
        final_activation: Activation = "relu",
        squeeze_excite: SqueezeExciteChoice = None,
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
            stride: of the first convolution and of the shortcut.
            bias: of the convolutions.
            norm: after each convolution; a name, what builds a norm, or None.
            activation: after the first convolution.
            final_activation: after the addition.
            squeeze_excite: gate of the branch after its last norm: a reduction, what builds a
                `SqueezeExcite`, or None.
            antialias: "avg" or "blur" takes the stride out of the convolution and puts such a pool
                after it.
            pool_shortcut: average-pool the shortcut in place of its stride (ResNet-D).
            stochastic_depth: probability of dropping the branch in training.
            zero_init_last: start the branch at 0, by the scale of its last norm.
            dtype: of the computation; None takes the widest of input and parameters.
            param_dtype: of the parameters.
            kernel_init: draws the kernels; PyTorch's default unless given.
            rngs: `params` is drawn from; `dropout` too if `stochastic_depth` is above 0.

        Raises: ValueError if a number is out of range.
        """
        check_positive(in_features=in_features, out_features=out_features, stride=stride)
        types = {
            "dtype": dtype,
            "param_dtype": param_dtype,
            "kernel_init": kernel_init,
            "rngs": rngs,
        }
        layer = partial(ConvNormAct, bias=bias, norm=norm, **types)
        self.antialias = make_antialias(antialias, stride)
        conv_stride = stride if self.antialias is None else 1
        self.conv1 = layer(in_features, out_features, 3, stride=conv_stride, activation=activation)
        self.conv2 = layer(out_features, out_features, 3, activation=None)
        self.squeeze_excite = make_squeeze_excite(squeeze_excite, out_features, **types)
        self.pool_shortcut = pool_shortcut
        self.shortcut_pool = shortcut_pool(stride) if pool_shortcut else None
        shortcut_stride = stride if self.shortcut_pool is None else 1
        shortcut = partial(
            layer, in_features, out_features, 1, stride=shortcut_stride, activation=None
        )
        self.shortcut = shortcut() if in_features != out_features or stride != 1 else None
        self.stochastic_depth = make_stochastic_depth(stochastic_depth, rngs)
        self.final_activation = get_activation(final_activation, "final_activation")
        if zero_init_last:
            zero_scale(self.conv2.norm)

    def __call__(self, x: Float[Array, "N H W I"]) -> Float[Array, "N Ho Wo O"]:
        """`(N, H, W, in_features)` to `(N, H / stride, W / stride, out_features)`, sizes rounded
        up.
        """
        branch = (self.conv1, self.antialias, self.conv2, self.squeeze_excite)
        y = apply(x, *branch, self.stochastic_depth)
        skip = apply(x, self.shortcut_pool, self.shortcut)
        return self.final_activation(y + skip.astype(y.dtype))
