"""The state of a run between steps, as one tree of arrays, which is what a checkpoint stores."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from train.network.average import Average
from train.network.model import Arrays, Network

__all__ = ["Sums", "TrainState", "initial_state"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sums:
    """Sums over the images of this epoch, kept on the device so that no step waits for them.

    Attributes:
        loss: sum of the losses.
        correct: number of images whose most likely class is their label (under mixup, the first of
            the two labels).
        images: number of images.
    """

    loss: jax.Array
    correct: jax.Array
    images: jax.Array

    @classmethod
    def zero(cls) -> "Sums":
        """The sums at the start of an epoch."""
        return cls(jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """The state of a run between steps.

    Attributes:
        step: number of optimiser steps taken.
        key: data of the random key, from which, with `step`, each step derives its own.
        params: parameters that are trained.
        frozen: parameters that are not trained.
        buffers: running statistics.
        optimiser: moments and counts of the optimiser.
        average: moving average of params and buffers; None without `--ema`.
        sums: sums over this epoch.
        diverged: number of the first step with infinite or NaN values; 0 while there is none.
    """

    step: jax.Array
    key: jax.Array
    params: Arrays
    frozen: Arrays
    buffers: Arrays
    optimiser: Any
    average: Average | None
    sums: Sums
    diverged: jax.Array

    def evaluated(self) -> tuple[Arrays, Arrays]:
        """The parameters and running statistics to evaluate and export: the average if there is
        one.
        """
        if self.average is None:
            return self.params, self.buffers
        return self.average.params, self.average.buffers


def initial_state(
    network: Network, optimiser: optax.GradientTransformation, *, seed: int, average: bool
) -> TrainState:
    """The state before the first step. It owns its arrays, so that they can be donated."""
    params, frozen, buffers = (
        jax.tree.map(lambda a: jnp.array(a, copy=True), part)
        for part in (network.params, network.frozen, network.buffers)
    )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(jax.random.key(seed)),
        params=params,
        frozen=frozen,
        buffers=buffers,
        optimiser=optimiser.init(params),
        average=_first_average(params, buffers) if average else None,
        sums=Sums.zero(),
        diverged=jnp.zeros((), jnp.int32),
    )


def _first_average(params: Arrays, buffers: Arrays) -> Average:
    copies = (jax.tree.map(lambda a: jnp.array(a, copy=True), part) for part in (params, buffers))
    return Average(next(copies), next(copies), jnp.zeros((), jnp.int32))
