"""Squeeze-and-excitation, and the argument that selects it in a block."""

from functools import partial
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxblocks.nn.activation import Activation, get_activation
from flaxblocks.nn.arguments import check_positive
from flaxblocks.nn.conv import Conv
from flaxblocks.nn.init import Initializer, uniform_fan_in
from flaxblocks.nn.norm import Norm, make_norm
from flaxblocks.nn.pool import global_avg_pool

__all__ = ["MakeSqueezeExcite", "SqueezeExcite", "SqueezeExciteChoice", "make_squeeze_excite"]


def _torchvision(block: nnx.Module):
    yield "reduce", "fc1"
    yield "norm", "bn"
    yield "expand", "fc2"


class SqueezeExcite(nnx.Module):
    """Scale each channel by a gate computed from its spatial mean.

    x * gate(expand(activation(norm(reduce(mean(x)))))), where `reduce` and `expand` are 1x1
    convolutions with bias.

    Source: Hu et al. 2018, https://arxiv.org/abs/1709.01507, equations 2 to 4.
    """

    layouts = {"article": _torchvision, "torchvision": _torchvision}
    title = "squeeze-excite"

    def __init__(
        self,
        features: int,
        *,
        reduction: int = 4,
        squeezed_features: int | None = None,
        activation: Activation = "relu",
        gate: Activation = "sigmoid",
        norm: Norm = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: Initializer = uniform_fan_in,
        bias_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        """Build the gate.

        Args:
            features: channels of the input and the output.
            reduction: sets the hidden width to `features // reduction`.
            squeezed_features: the hidden width itself; overrides `reduction`.
            activation: activation after `reduce`.
            gate: activation after `expand`: a name, a function or None.
            norm: norm between `reduce` and its activation; ReXNet has a batch norm there.
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters.
            kernel_init: initialiser of the kernels; by default PyTorch's.
            bias_init: initialiser of the biases; by default PyTorch's.
            rngs: random streams; parameters are drawn from the stream `params`.

        Raises: ValueError if a number is out of range or `reduction` leaves no channel.
        """
        check_positive(features=features, reduction=reduction)
        if squeezed_features is not None:
            check_positive(squeezed_features=squeezed_features)
        squeezed = features // reduction if squeezed_features is None else squeezed_features
        if squeezed < 1:
            raise ValueError(
                f"`reduction` (={reduction}) leaves no channel of `features` (={features}): "
                "`features // reduction` must be at least 1"
            )
        types = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        conv = partial(Conv, kernel_init=kernel_init, bias_init=bias_init, **types)
        self.reduce = conv(features, squeezed, 1)
        self.norm = make_norm(norm, squeezed, **types)
        self.activation = get_activation(activation)
        self.expand = conv(squeezed, features, 1)
        self.gate = get_activation(gate, "gate")

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        """Multiply `x` `(N, H, W, features)` by a gate that is constant over H and W."""
        s = self.reduce(global_avg_pool(x)[:, None, None, :])
        if self.norm is not None:
            s = self.norm(s)
        gate = self.gate(self.expand(self.activation(s)))
        return x.astype(gate.dtype) * gate


@runtime_checkable
class MakeSqueezeExcite(Protocol):
    """A callable that builds a gate for a number of channels: `SqueezeExcite`, or a
    `functools.partial` of it.
    """

    def __call__(
        self,
        features: int,
        *,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        kernel_init: Initializer,
        rngs: nnx.Rngs,
    ) -> nnx.Module: ...


SqueezeExciteChoice = int | MakeSqueezeExcite | None


def make_squeeze_excite(
    choice: SqueezeExciteChoice,
    features: int,
    *,
    dtype: DTypeLike | None,
    param_dtype: DTypeLike,
    kernel_init: Initializer,
    rngs: nnx.Rngs,
) -> nnx.Module | None:
    """Build the gate that a block's argument `squeeze_excite` selects.

    Args:
        choice: the reduction of a `SqueezeExcite`, a callable that builds a gate, or None for none.
        features: channels that the gate scales.
        dtype: dtype of the computation.
        param_dtype: dtype of the parameters.
        kernel_init: initialiser of the kernels.
        rngs: random streams.
    """
    if choice is None:
        return None
    make = choice if callable(choice) else partial(SqueezeExcite, reduction=choice)
    return make(features, dtype=dtype, param_dtype=param_dtype, kernel_init=kernel_init, rngs=rngs)
