"""All that a run carries from step to step, as one tree of arrays; what a checkpoint holds."""

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
    """What the steps of this epoch added up to, kept on the device so that no step waits.

    Attributes:
        loss: sum over images.
        correct: images whose likeliest class is theirs (under mixup, the first of the two).
        images: how many there were.
    """

    loss: jax.Array
    correct: jax.Array
    images: jax.Array

    @classmethod
    def zero(cls) -> "Sums":
        """At the beginning of an epoch."""
        return cls(jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a run carries from step to step.

    Attributes:
        step: optimiser steps taken.
        key: data of the random key; a step's randomness is made from it and `step`.
        params: what is trained.
        frozen: what is not.
        buffers: running statistics.
        optimiser: its moments and counts.
        average: of params and buffers; None without `--ema`.
        sums: of this epoch.
        diverged: the first step that gave a number which is not finite; 0 while there is none.
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
        """Parameters and running statistics to evaluate and to export: the average if there is
        one.
        """
        if self.average is None:
            return self.params, self.buffers
        return self.average.params, self.average.buffers


def initial_state(
    network: Network, optimiser: optax.GradientTransformation, *, seed: int, average: bool
) -> TrainState:
    """Before the first step. It owns its arrays, so that they may be donated."""
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
