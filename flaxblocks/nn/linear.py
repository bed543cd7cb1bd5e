"""The fully connected layer with PyTorch's semantics."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxblocks.nn.arguments import as_floating, check_positive, parameter_key
from flaxblocks.nn.counts import count_linear
from flaxblocks.nn.init import Initializer, uniform_fan_in
from flaxblocks.nn.torch_names import LINEAR

__all__ = ["Linear", "matrix_product"]

# On CPU a sum over inputs is computed in parts of this many inputs.
PART = 256
SMALL_PART = 32  # with at most `FEW_ROWS` rows
FEW_ROWS = 16
GATE = 512
GATE_PART = 16  # with few rows and at most `GATE` inputs, as in a gate


class Linear(nnx.Module):
    """`torch.nn.Linear`.

    Variables: `kernel` (in_features, out_features), `bias` (out_features,) or None.
    """

    torch_names = LINEAR
    title = "linear"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: Initializer = uniform_fan_in,
        bias_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        """Draw the parameters.

        Args:
            in_features: length of the last axis of the input.
            out_features: length of the last axis of the output.
            bias: whether to add a learnt constant to each output.
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters.
            kernel_init: initialiser of the kernel; by default PyTorch's.
            bias_init: initialiser of the bias; by default PyTorch's, U(-b, b) with
                b = fan_in^-1/2.
            rngs: random streams; parameters are drawn from the stream `params`.

        Raises: ValueError if a width is not positive.
        """
        check_positive(in_features=in_features, out_features=out_features)
        self.in_features = in_features
        self.out_features = out_features
        self.dtype = dtype
        self.kernel = nnx.Param(
            kernel_init(parameter_key(rngs), (in_features, out_features), param_dtype)
        )
        draw_bias = bias_init or partial(uniform_fan_in, fan_in=in_features)
        self.bias = (
            nnx.Param(draw_bias(parameter_key(rngs), (out_features,), param_dtype))
            if bias
            else None
        )

    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        """Map `x` `(..., in_features)` to `x @ kernel + bias` `(..., out_features)`.

        Raises: ValueError if the input has another number of features or is not of a floating type.
        """
        x = as_floating(x)
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"`x` (shape {x.shape}) must be (..., {self.in_features})")
        bias = None if self.bias is None else self.bias[...]
        x, kernel, bias = promote_dtype((x, self.kernel[...], bias), dtype=self.dtype)
        y = matrix_product(x, kernel)
        return y if bias is None else y + bias

    def multiply_adds(self, shape: tuple[int, ...]) -> int:
        """`in_features` per value of the output `(..., O)`, plus 1 per bias parameter."""
        return count_linear(self.kernel, self.bias, shape)


def matrix_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel`, `(..., I)` times `(I, O)`, with no more rounding error than PyTorch's product
    on every platform.
    """
    return lax.platform_dependent(x, kernel, cpu=_sum_of_parts, default=jnp.matmul)


def _sum_of_parts(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel` on CPU, with long sums computed in parts.

    XLA's CPU backend adds the products one after another. With 1,280 inputs this gives two to four
    times the rounding error of PyTorch's product, and after a classifier's head nothing averages it
    out. Summed in parts, the error is smaller than PyTorch's. For few rows, a single product with
    an extra axis for the parts is fastest; for many rows it would be slow.
    """
    rows, part = math.prod(x.shape[:-1]), SMALL_PART if len(kernel) > GATE else GATE_PART
    parts = len(kernel) // part
    are_few = isinstance(rows, int) and rows <= FEW_ROWS  # a symbolic number counts as many
    if x.dtype != jnp.float32 or len(kernel) <= (SMALL_PART if are_few else PART):
        return x @ kernel
    if not are_few:
        ends = list(range(PART, len(kernel), PART))
        pairs = zip(jnp.split(x, ends, axis=-1), jnp.split(kernel, ends), strict=True)
        return sum((a @ b for a, b in pairs), start=jnp.zeros((), x.dtype))
    whole = parts * part
    seen = x[..., :whole].reshape(*x.shape[:-1], parts, part)
    taken = kernel[:whole].reshape(parts, part, kernel.shape[-1])
    y = jnp.einsum("...pi,pio->p...o", seen, taken).sum(0)
    return y if whole == len(kernel) else y + x[..., whole:] @ kernel[whole:]
