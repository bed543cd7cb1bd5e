"""Dropout of values and of whole residual branches."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from flaxblocks.nn.arguments import check_choice, check_rate

__all__ = ["Dropout", "StochasticDepth"]


class Dropout(nnx.Dropout):
    """`torch.nn.Dropout`: in training mode, zero each value with probability `rate` and scale the
    others by 1 / (1 - rate).
    """

    torch_names = ()

    def __init__(self, rate: float, *, rngs: nnx.Rngs):
        """Fork the stream `dropout` of `rngs`, which rate 0 leaves untouched. Raises: ValueError if
        `rate` is outside [0, 1].
        """
        check_rate("rate", rate)
        super().__init__(rate, rngs=rngs if rate > 0 else None)

    def multiply_adds(self, shape: tuple[int, ...]) -> int:
        """0, as in the published counts."""
        return 0


class StochasticDepth(nnx.Module):
    """`torchvision.ops.StochasticDepth`: in training mode, zero a residual branch with probability
    `rate`.

    Mode "row" decides separately for each image, mode "batch" once for the whole batch. Branches
    that are kept are scaled by 1 / (1 - rate).

    Source: Huang et al. 2016, https://arxiv.org/abs/1603.09382.
    """

    torch_names = ()

    def __init__(self, rate: float, mode: Literal["row", "batch"] = "row", *, rngs: nnx.Rngs):
        """Fork the stream `dropout` of `rngs`, which rate 0 leaves untouched. Raises: ValueError if
        `rate` is outside [0, 1] or `mode` is unknown.
        """
        check_rate("rate", rate)
        check_choice("mode", mode, ("row", "batch"))
        self.rate = rate
        self.mode = mode
        self.deterministic = False
        self.rngs = rngs.dropout.fork() if rate > 0 else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """`x` `(N, ...)`; in training mode with some of its rows, or all of them, set to zero."""
        if self.deterministic or self.rate == 0 or self.rngs is None:
            return x
        if self.rate == 1:
            return jnp.zeros_like(x)
        rows = x.shape[0] if self.mode == "row" else 1
        shape = (rows, *(1 for _ in x.shape[1:]))
        survives = jax.random.bernoulli(self.rngs(), 1 - self.rate, shape)
        return jnp.where(survives, x / (1 - self.rate), 0)

    def multiply_adds(self, shape: tuple[int, ...]) -> int:
        """0, as in the published counts."""
        return 0

    def set_view(self, deterministic: bool | None = None) -> None:
        """Set the mode for `nnx.view(model, deterministic=...)`, which gives a model in another
        mode over the same variables.

        Args:
          deterministic: return the input unchanged, as after `eval()`; None changes nothing.
        """
        if deterministic is not None:
            self.deterministic = deterministic
