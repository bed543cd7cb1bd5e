"""What the classes of a network are called: what the user says, what lies beside the weights, what
is published, and else nothing.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxblocks.weights import WeightEntry, list_weights

__all__ = ["BESIDE", "ClassNames", "class_names"]

BESIDE = "classes.txt"  # as a training run writes it
HOW = f"--classes FILE, or {BESIDE} beside the weights, names them, a class on each line"


@dataclass(frozen=True)
class ClassNames:
    """The names of the classes, in the order of the logits.

    Attributes:
        names: None where they are not known.
        said: where they are from, if that is to be told.
    """

    names: tuple[str, ...] | None
    said: str = ""


def class_names(
    count: int,
    weights: str | os.PathLike[str],
    *,
    file: Path | None = None,
    published: WeightEntry | None = None,
    settings: Mapping[str, Any] | None = None,
    is_bare: bool = False,
) -> ClassNames:
    """The names of `count` classes; the first of these that are there.

    Args:
        count: of the network's classes.
        weights: the file or folder of weights, or what names published ones.
        file: the user's, a class on each line.
        published: the published weights that these are.
        settings: of the `config.json` beside the weights.
        is_bare: they are a state dict and nothing else, as libraries publish them: a thousand
            classes are then taken for ImageNet's.

    Raises: ValueError if `file` cannot be read, or has another number of lines.
    """
    if file is not None:
        return ClassNames(_lines(file, count))
    if published is not None:
        known = len(published.categories) == count
        return ClassNames(published.categories) if known else _unnamed("")
    beside = next(filter(Path.is_file, _places(Path(weights))), None)
    wrong = ""
    if beside is not None:
        try:
            return ClassNames(_lines(beside, count))
        except ValueError as error:
            wrong = f"{error}, and is left; "
    labels = _labels(settings or {})
    if len(labels) == count:
        return ClassNames(labels)
    named = (entry.categories for entry in list_weights() if len(entry.categories) == count)
    likely = next(named, None) if is_bare and not wrong else None
    if likely is None:
        return _unnamed(wrong)
    return ClassNames(likely, f"the {count} classes are assumed to be ImageNet's; {HOW}")


def _unnamed(wrong: str) -> ClassNames:
    return ClassNames(None, f"{wrong}the classes are numbered; {HOW}")


def _places(weights: Path) -> tuple[Path, ...]:
    """Where names may lie: in the folder of weights, and beside them."""
    return (weights / BESIDE, weights.absolute().parent / BESIDE)


def _lines(file: Path, count: int) -> tuple[str, ...]:
    """The lines of a file, without empty ones at its end."""
    try:
        text = os.fsdecode(file.read_bytes()).removeprefix("\ufeff")
    except OSError as error:
        raise ValueError(f"the classes of {file} cannot be read: {error.strerror}") from error
    lines = tuple(line.strip() for line in text.rstrip().splitlines())
    if len(lines) != count:
        raise ValueError(f"{file} names {len(lines)} classes, and the weights have {count}")
    return lines


def _labels(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes of a `config.json`: timm's `label_names`, or Hugging Face's `id2label`."""
    names = settings.get("label_names")
    if isinstance(names, list):
        return tuple(map(str, names))
    labels = settings.get("id2label")
    if not isinstance(labels, dict) or set(labels) != set(map(str, range(len(labels)))):
        return ()
    return tuple(str(labels[str(i)]) for i in range(len(labels)))
