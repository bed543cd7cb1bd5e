"""The argument `weights=`: a file, a mapping, or the name of published weights."""

import os
import sys
from collections.abc import Mapping
from enum import Enum
from typing import Any

__all__ = ["Weights", "default_weights", "published_weights", "resolve_weights"]

Weights = str | os.PathLike[str] | Mapping[str, Any] | Enum | None


def published_weights(name: str, weights: Any) -> Any:
    """The `WeightEntry` of model `name` that `weights` names; None if it is a path or a mapping.

    Raises: ValueError if it names neither a file nor published weights.
    """
    if type(weights).__name__.endswith("_Weights"):  # torchvision's `ResNet50_Weights.DEFAULT`
        weights = str(weights)
    if isinstance(weights, bool):
        raise ValueError(f'`weights` (={weights}): did you mean "DEFAULT"?')
    if not isinstance(weights, str) or os.path.exists(weights):
        return None
    from flaxblocks.checkpoints.formats import FORMATS

    suffixes = tuple(suffix for row in FORMATS for suffix in row.suffixes)
    if os.sep in weights or weights.lower().endswith(suffixes):
        return None  # the reader will report that the file is missing
    from flaxblocks.weights.entry import find_weights

    try:
        return find_weights(name, weights)
    except ValueError as error:
        raise ValueError(
            f"`weights` (={weights!r}) is neither a file nor published weights: {error}"
        ) from None


def default_weights(name: str, layout: str | None) -> Any:
    """The default `WeightEntry` of model `name`, preferably from the library whose layout the
    checkpoint uses; None if no library publishes any.
    """
    from flaxblocks.weights.entry import list_weights

    defaults = [weights for weights in list_weights(name) if weights.default]
    known = (weights for weights in defaults if weights.source == layout)
    return next(known, next(iter(defaults), None))


def resolve_weights(name: str, weights: Any) -> Any:
    """The downloaded file of published weights of model `name`; a path or mapping is returned
    unchanged.

    Raises: ValueError if `weights` names neither a file nor published weights.
    """
    entry = published_weights(name, weights)
    if entry is None:
        return weights
    from flaxblocks.weights.fetch import fetch_weights

    return fetch_weights(entry, progress=sys.stderr.isatty())
