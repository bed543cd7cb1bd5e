"""Ranking several state dicts: the one that the program which wrote them evaluates comes first."""

import re
from collections.abc import Sequence

__all__ = ["is_averaged", "is_of_training", "rank"]

# Usual keys of a state dict, in order of preference.
CONTAINERS = [
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "params",
    "weights",
    "backbone",
    "state_dicts",
    "models",
    "encoder",
]
AVERAGED = frozenset(["ema", "averaged", "average", "avg", "swa", "polyak", "shadow"])


def _words(key: str) -> list[str]:
    """The words of a key in lower case: `ModelEMA_state` gives model, ema, state."""
    runs = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", key)
    return [run.lower() for run in runs]


def is_of_training(key: str) -> bool:
    """Whether a key leads to the state of an optimiser, scheduler or the like, not to a network."""
    return any(
        word.startswith(("optimi", "sched", "scaler", "lrsched"))
        or word in ("opt", "optim", "rng", "amp")
        for word in _words(key)
    )


def is_averaged(path: Sequence[str]) -> bool:
    """Whether the keys indicate averaged weights."""
    return any(word in AVERAGED for key in path for word in _words(key))


def rank(path: Sequence[str], averaged: bool, arrays: int) -> tuple:
    """A sort key of a state dict; the smallest is the best.

    Momentum encoders come last; averaged weights come before raw ones; then the teacher before the
    student, since programs that have both evaluate the teacher; then the usual containers in their
    order, then the source itself, then any other mapping, the larger first.
    """
    words = [word for key in path for word in _words(key)]
    momentum = "momentum" in words or any(key in ("encoder_k", "key_encoder") for key in path)
    container = max((_container(key) for key in path), default=len(CONTAINERS))
    unknown = container > len(CONTAINERS)
    return momentum, not averaged, container, -arrays if unknown else 0


def _container(key: str) -> int:
    """The rank of a key among the usual containers, ignoring its words for averaging."""
    plain = "_".join(word for word in _words(key) if word not in AVERAGED) or CONTAINERS[0]
    if plain in CONTAINERS:
        return CONTAINERS.index(plain)
    return {"teacher": -2, "student": -1}.get(plain, len(CONTAINERS) + 1)
