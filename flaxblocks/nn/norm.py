"""Normalisation layers with PyTorch's semantics, and their names.

In training, PyTorch's batch norm differs from Flax's: it normalises with the biased batch variance
but updates the running variance with the *unbiased* one, counts the batches, and rejects a batch
with a single value per channel. The variance is computed as E[(x - mean)^2], not as
E[x^2] - E[x]^2, which cancels: with mean 1000 and standard deviation 0.1 it gives 0 in float32.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxblocks.nn.arguments import (
    as_floating,
    check_divisible,
    check_factor,
    check_positive,
    check_rate,
)
from flaxblocks.nn.batch_statistics import AxisName, inverse_root, normalise_by_batch
from flaxblocks.nn.counts import count_norm
from flaxblocks.nn.init import full
from flaxblocks.nn.torch_names import AFFINE, BATCH_NORM

__all__ = [
    "NORMS",
    "BatchNorm",
    "GroupNorm",
    "MakeNorm",
    "Norm",
    "check_norm",
    "make_norm",
    "set_batch_norm",
]


@runtime_checkable
class MakeNorm(Protocol):
    """A callable that builds a norm for a number of channels: a class such as `BatchNorm`, or a
    `functools.partial` of it.
    """

    def __call__(
        self,
        num_features: int,
        *,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> nnx.Module: ...


Norm = str | MakeNorm | None


class BatchNorm(nnx.Module):
    """`torch.nn.BatchNorm2d` over the last axis; all other axes are the batch.

    Variables: `scale`, `bias` (`nnx.Param`) or None; `mean`, `var`, `num_batches_tracked`
        (`nnx.BatchStat`) or None; all `(num_features,)` except `num_batches_tracked`, a scalar.

    `train()` and `eval()` set `use_running_average`.

    Source: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, algorithms 1 and 2.
    """

    torch_names = BATCH_NORM

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        axis_name: AxisName = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        """Initialise as PyTorch: scale 1, bias 0, running mean 0, running variance 1, count 0.

        Args:
            num_features: number of channels.
            eps: constant added to the variance.
            momentum: weight of the new batch in the running statistics, as in PyTorch (0.1 is
                Flax's 0.9); None keeps the plain average over all batches.
            affine: whether to learn a scale and a bias.
            track_running_stats: whether to keep running statistics; without them, evaluation mode
                also normalises with the statistics of the batch.
            axis_name: within `jax.shard_map`, `jax.pmap` or `jax.vmap`, the axis or axes over which
                the batch is split; statistics are then computed over the whole batch, as in
                PyTorch's `SyncBatchNorm`. Under `jax.jit` they always are, however the batch is
                sharded. In an existing model, `model.set_attributes(BatchNorm, axis_name="data")`
                sets it for every norm and changes nothing else.
            dtype: dtype of the result; None promotes input and parameters to a common dtype.
                Statistics are computed in float32 or wider.
            param_dtype: dtype of the parameters and the running statistics.
            rngs: unused; all norms share one signature.

        Raises: ValueError if `num_features` is not positive or `axis_name` is not a name.
        """
        check_positive(num_features=num_features)
        _check_axis_name(axis_name)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.axis_name: AxisName = axis_name
        self.dtype = dtype
        self.use_running_average = False
        shape = (num_features,)
        self.scale = nnx.Param(full(1, shape, param_dtype)) if affine else None
        self.bias = nnx.Param(full(0, shape, param_dtype)) if affine else None
        tracked = track_running_stats
        self.mean = nnx.BatchStat(full(0, shape, param_dtype)) if tracked else None
        self.var = nnx.BatchStat(full(1, shape, param_dtype)) if tracked else None
        self.num_batches_tracked = nnx.BatchStat(full(0, (), jnp.int32)) if tracked else None

    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        """Normalise each channel of `x` `(..., num_features)`; in training mode also update the
        running statistics.

        Raises: ValueError if `x` has another number of channels or is not of a floating type; in
            training mode also if it has one value per channel, or if `axis_name` is not an axis of
            the surrounding map.
        """
        x = as_floating(x)
        if x.shape[-1:] != (self.num_features,):
            raise ValueError(f"`x` (shape {x.shape}) must be (..., {self.num_features})")
        params = [v[...] for v in (self.scale, self.bias) if v is not None]
        dtype = self.dtype or jnp.result_type(x, *params)
        wide = jnp.promote_types(dtype, jnp.float32)
        x = x.astype(wide)
        scale = jnp.ones((), wide) if self.scale is None else self.scale[...].astype(wide)
        if self.use_running_average and self.mean is not None and self.var is not None:
            mean, var = self.mean[...].astype(wide), self.var[...].astype(wide)
            y = (x - mean) * (inverse_root(var + self.eps) * scale)
        else:
            y = self._by_batch(x, scale)
        if self.bias is not None:
            y += self.bias[...].astype(wide)
        return y.astype(dtype)

    def multiply_adds(self, shape: tuple[int, ...]) -> int:
        """1 per parameter, as in the published counts."""
        return count_norm(self.scale, self.bias)

    def _by_batch(self, x: jax.Array, scale: jax.Array) -> jax.Array:
        """Normalise with the statistics of the batch, and update the running ones with them."""
        count = x.size // self.num_features * self._parts()
        if count < 2:
            raise ValueError(
                f"`x` (shape {x.shape}) has {count} value per channel; batch norm in training mode "
                "needs more than 1 (use a larger batch or image, or `eval()`)"
            )
        scale = jnp.broadcast_to(scale, x.shape[-1:])
        y, mean, var = normalise_by_batch(x, scale, self.eps, self.axis_name)
        if not self.use_running_average:
            self._update(lax.stop_gradient(mean), lax.stop_gradient(var) * (count / (count - 1)))
        return y

    def _parts(self) -> int:
        """The number of equal parts that the batch is split into."""
        try:
            return 1 if self.axis_name is None else lax.psum(1, self.axis_name)
        except NameError:
            raise ValueError(
                f"`axis_name` (={self.axis_name!r}) is not a mapped axis here: in training mode, "
                "call the model within `jax.shard_map` or `jax.pmap` over that axis"
            ) from None

    def _update(self, mean: jax.Array, unbiased_var: jax.Array) -> None:
        if self.mean is None or self.var is None or self.num_batches_tracked is None:
            return
        batches = self.num_batches_tracked[...] + 1
        weight = 1.0 / batches.astype(mean.dtype) if self.momentum is None else self.momentum
        # Not `variable[...] =`, which asks a tracer for its sharding: to find that it has none, JAX
        # searches everything traced so far, which takes 4/5 of the time to trace ResNet-152.
        self.num_batches_tracked.set_value(batches)
        for running, new in ((self.mean, mean), (self.var, unbiased_var)):
            old = running[...]
            moved = (1 - weight) * old.astype(new.dtype) + weight * new
            running.set_value(moved.astype(old.dtype))

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Set the mode for `nnx.view(model, use_running_average=...)`, which gives a model in
        another mode over the same variables.

        Args:
          use_running_average: use the running statistics, as after `eval()`; None changes nothing.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average


def _check_axis_name(axis_name: AxisName) -> None:
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    if axis_name is not None and not (names and all(isinstance(name, str) for name in names)):
        raise ValueError(f"`axis_name` (={axis_name!r}) must be a name, a tuple of them or None")


class GroupNorm(nnx.GroupNorm):
    """`torch.nn.GroupNorm` with channels on the last axis; the variance is E[(x - mean)^2].

    Variables: `scale`, `bias` `(num_features,)`.

    Source: Wu and He 2018, https://arxiv.org/abs/1803.08494.
    """

    torch_names = AFFINE

    def __init__(
        self,
        num_features: int,
        *,
        num_groups: int = 32,
        eps: float = 1e-5,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Initialise with scale 1 and bias 0.

        Args:
            num_features: number of channels.
            num_groups: number of groups of adjacent channels; each group shares its statistics.
            eps: constant added to the variance.
            dtype: dtype of the result; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters.
            rngs: required by `nnx.GroupNorm`; has no influence on the values.

        Raises: ValueError if `num_groups` does not divide `num_features`.
        """
        check_positive(num_features=num_features, num_groups=num_groups)
        check_divisible("num_groups", num_groups, num_features=num_features)
        self.num_features = num_features
        super().__init__(
            num_features,
            num_groups=num_groups,
            epsilon=eps,
            use_fast_variance=False,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(
        self, x: Float[Array, "N *spatial C"], *, mask: jax.Array | None = None
    ) -> Float[Array, "N *spatial C"]:
        """Normalise each channel group of each image in `x` `(N, ..., num_features)`.

        Raises: ValueError if `x` has another number of channels or is not of a floating type.
        """
        x = as_floating(x)
        if x.ndim < 2 or x.shape[-1] != self.num_features:
            raise ValueError(f"`x` (shape {x.shape}) must be (N, ..., {self.num_features})")
        return super().__call__(x, mask=mask)

    def multiply_adds(self, shape: tuple[int, ...]) -> int:
        """1 per parameter, as in the published counts."""
        return count_norm(self.scale, self.bias)


NORMS: dict[str, Callable[..., nnx.Module]] = {"batch_norm": BatchNorm, "group_norm": GroupNorm}


def check_norm(argument: str, norm: Norm) -> None:
    """Check that `norm` is a name in `NORMS`, a callable or None.

    Raises: ValueError that names `argument` if it is none of these, or builds Flax's own batch
        norm.
    """
    known = norm in NORMS if isinstance(norm, str) else norm is None or callable(norm)
    if not known:
        raise ValueError(
            f"`{argument}` (={norm!r}) must be one of {sorted(NORMS)}, a callable or None"
        )
    made = norm
    while isinstance(made, partial):
        made = made.func
    if isinstance(made, type) and issubclass(made, nnx.BatchNorm):
        raise _flaxs_batch_norm(argument, norm)


def _flaxs_batch_norm(argument: str, norm: Norm) -> ValueError:
    """The error for Flax's batch norm: it would train, but its statistics cannot be converted to
    PyTorch.
    """
    return ValueError(
        f"`{argument}` (={norm!r}) must not build Flax's `BatchNorm`, whose running variance is "
        'biased and which has no equivalent in PyTorch: use "batch_norm" or '
        "`flaxblocks.nn.BatchNorm` (`momentum=0.1` for Flax's 0.9), which are converted"
    )


def set_batch_norm(norm: Norm, *, norm_eps: float, norm_momentum: float) -> Norm:
    """Bind `norm_eps` and `norm_momentum` (PyTorch's) to "batch_norm"; return any other norm
    unchanged.

    Raises: ValueError for an unknown norm, an epsilon that is not positive, or a momentum outside
        [0, 1].
    """
    check_norm("norm_layer", norm)
    check_factor(norm_eps=norm_eps)
    check_rate("norm_momentum", norm_momentum)
    return (
        partial(BatchNorm, eps=norm_eps, momentum=norm_momentum) if norm == "batch_norm" else norm
    )


def make_norm(
    norm: Norm,
    num_features: int,
    *,
    dtype: DTypeLike | None,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Module | None:
    """Build the norm for `num_features` channels that `norm`, a name in `NORMS` or a callable,
    stands for; None gives None.

    Raises: ValueError for an unknown name, listing the known ones, and for Flax's own batch norm.
    """
    check_norm("norm", norm)
    if norm is None:
        return None
    make = NORMS[norm] if isinstance(norm, str) else norm
    made = make(num_features, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
    if isinstance(made, nnx.BatchNorm):  # built by a function, which `check_norm` cannot look into
        raise _flaxs_batch_norm("norm", norm)
    return made
