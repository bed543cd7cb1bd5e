"""PyTorch's stored answers to hashed weights and images, and how an answer is held against one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from flaxblocks.parity.hashed import Norms, picks

__all__ = ["FILE", "Answer", "answers", "departures", "digest", "digests"]

FILE = "answers.npz"  # beside this module; written by tools/make_selftest_answers.py
SAMPLES, FEW_SAMPLES = 256, 4  # numbers kept of an output, and of each of many variables
MOMENTS = 3  # that stand before the samples
ZERO = 1e-12  # of the largest gradient: below it a gradient is 0 up to rounding


def digest(name: str, tensor: Any, most: int = SAMPLES) -> np.ndarray:
    """Norm, mean and largest magnitude of a tensor, then samples of it, in float64.

    Args:
        name: of the tensor: it decides which numbers are sampled.
        tensor: in Flax's layout.
        most: how many samples.
    """
    flat = np.asarray(tensor).astype(np.float64).reshape(-1)
    moments = [np.sqrt(np.square(flat).sum()), flat.mean(), np.abs(flat).max()]
    return np.concatenate([moments, flat[picks(name, flat.size, most)]])


def digests(tensors: Mapping[str, Any]) -> np.ndarray:
    """A row for each of many variables, padded to one length with zeros."""
    rows = np.zeros((len(tensors), MOMENTS + FEW_SAMPLES))
    for row, (name, tensor) in zip(rows, tensors.items(), strict=True):
        numbers = digest(name, tensor, FEW_SAMPLES)
        row[: numbers.size] = numbers
    return rows


def departures(ours: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How far each digest is from the stored one, relative to the tensor's size.

    Args:
        ours: a digest, or rows of them.
        truth: the same shape.

    Returns: the largest relative error of each row; infinity where a number is not finite.
    """
    ours, truth = np.atleast_2d(ours), np.atleast_2d(truth)
    if ours.shape != truth.shape:
        return np.full(len(truth), np.inf)
    scale = truth[:, 2].copy()
    is_zero = scale <= ZERO * scale.max(initial=0.0)
    scale[is_zero] = scale.max(initial=0.0) or 1.0
    errors = np.abs(ours - truth)[:, 1:] / scale[:, None]  # the mean, the maximum, the samples
    norms = np.abs(ours - truth)[:, 0] / np.where(is_zero, np.inf, truth[:, 0])
    largest = np.maximum(errors.max(1), norms)
    return np.where(np.isfinite(ours).all(1), largest, np.inf)


@dataclass(frozen=True)
class Answer:
    """What PyTorch computed of one case.

    Attributes:
        norms: what the hashed running statistics are about.
        truth: "output", "features", "buffers" or "gradients" -> digests in float64.
        float32: the same -> PyTorch's own error in float32: the largest of an output, the median
            over variables.
        bfloat16: the same in bfloat16.
    """

    norms: Norms
    truth: Mapping[str, np.ndarray]
    float32: Mapping[str, float]
    bfloat16: Mapping[str, float]


@cache
def answers() -> dict[str, Answer]:
    """`Case.key` -> answer."""
    with files("flaxblocks.parity").joinpath(FILE).open("rb") as file, np.load(file) as stored:
        about = json.loads(str(stored["about"]))
        return {
            key: Answer(
                {path: (mean, variance) for path, (mean, variance) in case["norms"].items()},
                {what: stored[f"{key}|{what}"] for what in case["float32"]},
                case["float32"],
                case["bfloat16"],
            )
            for key, case in about["cases"].items()
        }
