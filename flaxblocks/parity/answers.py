"""PyTorch's stored results for hashed weights and images, and the comparison with them."""

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
SAMPLES, FEW_SAMPLES = 256, 4  # values kept of an output, and of each of many variables
MOMENTS = 3  # numbers before the samples
ZERO = 1e-12  # a gradient below this fraction of the largest one is 0 up to rounding


def digest(name: str, tensor: Any, most: int = SAMPLES) -> np.ndarray:
    """The norm, mean and largest magnitude of a tensor, followed by samples of it, in float64.

    Args:
        name: name of the tensor, which determines the values that are sampled.
        tensor: the tensor in Flax's layout.
        most: maximum number of samples.
    """
    flat = np.asarray(tensor).astype(np.float64).reshape(-1)
    moments = [np.sqrt(np.square(flat).sum()), flat.mean(), np.abs(flat).max()]
    return np.concatenate([moments, flat[picks(name, flat.size, most)]])


def digests(tensors: Mapping[str, Any]) -> np.ndarray:
    """The digests of many variables, one per row, padded with zeros to equal length."""
    rows = np.zeros((len(tensors), MOMENTS + FEW_SAMPLES))
    for row, (name, tensor) in zip(rows, tensors.items(), strict=True):
        numbers = digest(name, tensor, FEW_SAMPLES)
        row[: numbers.size] = numbers
    return rows


def departures(ours: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The difference of each digest from the stored one, relative to the magnitude of the tensor.

    Args:
        ours: a digest, or several as rows.
        truth: the stored ones, in the same shape.

    Returns: the largest relative error of each row; infinity if a value is not finite.
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
    """PyTorch's results for one case.

    Attributes:
        norms: means and variances around which the running statistics are hashed.
        truth: maps "output", "features", "buffers" or "gradients" to digests in float64.
        float32: maps the same to PyTorch's own error in float32: the largest one for an output, the
            median over variables for buffers and gradients.
        bfloat16: the same in bfloat16.
    """

    norms: Norms
    truth: Mapping[str, np.ndarray]
    float32: Mapping[str, float]
    bfloat16: Mapping[str, float]


@cache
def answers() -> dict[str, Answer]:
    """The stored answers by `Case.key`."""
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
