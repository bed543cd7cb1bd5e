"""The basic residual block of ResNet: two 3x3 convolutions and a shortcut."""

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

    `conv1` is a 3x3 `ConvNormAct` with the stride, `conv2` a 3x3 one without activation. `shortcut`
    is a 1x1 `ConvNormAct` without activation if the shape changes, else the identity.

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
            stride: stride of the first convolution and of the shortcut.
            bias: whether the convolutions have a bias.
            norm: the norm after each convolution: its name, a callable that builds it, or None.
            activation: activation after the first convolution.
            final_activation: activation after the addition.
            squeeze_excite: gate after the branch's last norm: the reduction of a `SqueezeExcite`, a
                callable that builds a gate, or None.
            antialias: "avg" or "blur" replaces the stride of the convolution by an average or blur
                pool after it.
            pool_shortcut: replace the stride of the shortcut by an average pool (ResNet-D).
            stochastic_depth: probability of dropping the branch in training.
            zero_init_last: initialise the scale of the branch's last norm to 0.
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters.
            kernel_init: initialiser of the kernels; by default PyTorch's.
            rngs: random streams: `params`, and `dropout` if `stochastic_depth` is above 0.

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
        """Map `x` `(N, H, W, in_features)` to
        `(N, ceil(H / stride), ceil(W / stride), out_features)`.
        """
        branch = (self.conv1, self.antialias, self.conv2, self.squeeze_excite)
        y = apply(x, *branch, self.stochastic_depth)
        skip = apply(x, self.shortcut_pool, self.shortcut)
        return self.final_activation(y + skip.astype(y.dtype))
