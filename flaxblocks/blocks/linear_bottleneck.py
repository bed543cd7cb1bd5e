"""ReXNet's linear bottleneck: an inverted residual whose skip allows more output channels.

Source: Han et al. 2021, https://arxiv.org/abs/2007.00992, section 4 and appendix A, figure A2.
"""

from collections.abc import Callable, Iterator
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxblocks.blocks.conv_norm_act import ConvNormAct, timm_names
from flaxblocks.blocks.residual import apply, make_stochastic_depth
from flaxblocks.blocks.squeeze_excite import SqueezeExciteChoice, make_squeeze_excite
from flaxblocks.nn.activation import Activation, get_activation
from flaxblocks.nn.arguments import check_finite, check_positive
from flaxblocks.nn.init import Initializer, uniform_fan_in
from flaxblocks.nn.norm import Norm

__all__ = ["RexBottleneck"]


def _official(block: "RexBottleneck") -> Iterator[tuple[str, ...]]:
    """The layers are numbered in one `Sequential`, in which every activation has a number too."""
    at = 0
    if block.expand is not None:
        yield "expand.conv", "out.0"
        yield "expand.norm", "out.1"
        yield "expand", "out.2", "output"
        at = 3
    yield "conv.conv", f"out.{at}"
    yield "conv.norm", f"out.{at + 1}"
    at += 2
    if block.squeeze_excite is not None:
        yield "squeeze_excite", f"out.{at}", "output"
        yield "squeeze_excite.reduce", f"out.{at}.fc.0"
        yield "squeeze_excite.norm", f"out.{at}.fc.1"
        yield "squeeze_excite.expand", f"out.{at}.fc.3"
        at += 1
    yield "project.conv", f"out.{at + 1}"
    yield "project.norm", f"out.{at + 2}"


def _timm(block: "RexBottleneck") -> Iterator[tuple[str, ...]]:
    for native, foreign in (("expand", "conv_exp"), ("conv", "conv_dw"), ("project", "conv_pwl")):
        if native == "project":
            yield "squeeze_excite", "se", "output"
            yield "squeeze_excite.reduce", "se.fc1"
            yield "squeeze_excite.norm", "se.bn"
            yield "squeeze_excite.expand", "se.fc2"
        yield from timm_names(native, foreign)


class RexBottleneck(nnx.Module):
    """y = project(depthwise_activation(squeeze_excite(conv(expand(x))))); if `stride` is 1 and
    `out_features >= in_features`, x is added to the first `in_features` channels of y.
    """

    layouts = {"official": _official, "article": _official, "timm": _timm}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        expansion: float = 6,
        kernel_size: int = 3,
        stride: int = 1,
        norm: Norm = "batch_norm",
        activation: Activation = "silu",
        depthwise_activation: Activation = "relu6",
        squeeze_excite: SqueezeExciteChoice = None,
        stochastic_depth: float = 0.0,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: Initializer = uniform_fan_in,
        rngs: nnx.Rngs,
    ):
        """Build the branch.

        Args:
            in_features: channels of the input.
            out_features: channels of the output.
            expansion: sets the hidden width to `round(in_features * expansion)`, which rounds
                halves to even; with 1 there is no `expand`.
            kernel_size: kernel size of the depthwise convolution in pixels.
            stride: stride of the depthwise convolution.
            norm: the norm after each convolution: its name, a callable that builds it, or None.
            activation: activation after `expand`.
            depthwise_activation: activation after the depthwise convolution and its gate.
            squeeze_excite: gate of the hidden channels after the depthwise convolution: the
                reduction of a `SqueezeExcite`, a callable that builds a gate, or None. ReXNet's is
                `partial(SqueezeExcite, reduction=12, norm="batch_norm")`.
            stochastic_depth: probability of dropping the branch in training; ignored without a
                skip.
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters.
            kernel_init: initialiser of the kernels; by default PyTorch's.
            rngs: random streams: `params`, and `dropout` if `stochastic_depth` is above 0.

        Raises: ValueError if a number is out of range, or `expansion` or `squeeze_excite` leaves no
            channel.
        """
        check_positive(in_features=in_features, out_features=out_features, stride=stride)
        check_finite(expansion=expansion)
        hidden = round(in_features * expansion)
        if hidden < 1:
            raise ValueError(
                f"`expansion` (={expansion}) leaves no channel of `in_features` (={in_features}): "
                "`round(in_features * expansion)` must be at least 1"
            )
        types = {
            "dtype": dtype,
            "param_dtype": param_dtype,
            "kernel_init": kernel_init,
            "rngs": rngs,
        }
        layer = partial(ConvNormAct, bias=False, norm=norm, **types)
        self.in_features = in_features
        self.out_features = out_features
        self.expand = (
            layer(in_features, hidden, 1, activation=activation) if expansion != 1 else None
        )
        self.conv = layer(
            hidden,
            hidden,
            kernel_size,
            stride=stride,
            groups=hidden,
            activation=None,
        )
        self.squeeze_excite = make_squeeze_excite(squeeze_excite, hidden, **types)
        self.activation = get_activation(depthwise_activation, "depthwise_activation")
        self.project = layer(hidden, out_features, 1, activation=None)
        self.residual = stride == 1 and in_features <= out_features
        self.stochastic_depth = (
            make_stochastic_depth(stochastic_depth, rngs) if self.residual else None
        )

    @property
    def functions_before(self) -> dict[str, Callable]:
        """The functions, other than modules, that run before a layer, by its name; for `draw`."""
        return {"project": self.activation}

    @property
    def added(self) -> str:
        """What the skip does if there are new channels, as a label for `draw`."""
        return "" if self.in_features == self.out_features else "zeros appended"

    def __call__(self, x: Float[Array, "N H W I"]) -> Float[Array, "N Ho Wo O"]:
        """Map `x` `(N, H, W, in_features)` to
        `(N, ceil(H / stride), ceil(W / stride), out_features)`.
        """
        y = self.activation(apply(x, self.expand, self.conv, self.squeeze_excite))
        y = self.project(y)
        if not self.residual:
            return y
        new = self.out_features - self.in_features  # channels that `x` does not have
        skip = jnp.pad(x.astype(y.dtype), ((0, 0), (0, 0), (0, 0), (0, new)))
        return apply(y, self.stochastic_depth) + skip
