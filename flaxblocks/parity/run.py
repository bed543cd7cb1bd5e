"""The results of one framework in one precision, and what both frameworks must do alike."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from flaxblocks.convert.keymap import KeyMap, ModulePair
from flaxblocks.parity.report import Kind

__all__ = ["Mode", "Precision", "Run", "cotangent", "output_pairs", "tensors"]

Precision = Literal["bfloat16", "float32", "float64"]


class Mode(NamedTuple):
    """How a model runs.

    Attributes:
        train: with batch statistics, updating the buffers.
        grad: with the gradients of the parameters.
        whole: as one program that returns only the output, buffers and gradients, rather than the
            output of every module too.
    """

    train: bool
    grad: bool
    whole: bool


@dataclass
class Run:
    """The results of one framework in one precision, by PyTorch name and in Flax's layout."""

    module: dict[str, np.ndarray] = field(default_factory=dict)
    buffer: dict[str, np.ndarray] = field(default_factory=dict)
    gradient: dict[str, np.ndarray] = field(default_factory=dict)

    def tensors(self, kind: Kind) -> dict[str, np.ndarray]:
        """The tensors of a kind, in PyTorch's forward order."""
        return getattr(self, kind)


def cotangent(shape: tuple[int, ...]) -> np.ndarray:
    """The fixed tensor by which an output is multiplied to give a scalar, in Flax's layout."""
    return np.random.default_rng(0).standard_normal(shape)


def output_pairs(keys: KeyMap, whole: bool) -> dict[str, ModulePair]:
    """The pairs of modules with the same output, by foreign name (the last pair of a name wins);
    for a whole program only the two models.
    """
    pairs = {"": ModulePair("", ""), **{pair.foreign: pair for pair in keys.modules}}
    return {"": pairs[""]} if whole else pairs


def tensors(name: str, output: Any) -> dict[str, Any]:
    """The tensors of an output: itself, or those of a list, tuple or dict, named `name[i]`."""
    items = list(output.values()) if isinstance(output, Mapping) else output
    if not isinstance(items, list | tuple):
        return {name: output}
    found: dict[str, Any] = {}
    for i, item in enumerate(items):
        found |= tensors(f"{name}[{i}]", item)
    return found
