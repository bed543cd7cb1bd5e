"""What a data set is: images and labels by index."""

import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, BinaryIO, Protocol

from PIL import Image

from flaxblocks.weights.preprocess import Transforms, to_rgb

TRAIN = "train"
HELD_OUT = ("val", "validation", "test")  # the first of them that there is
WAITS = (0.1, 1.0)  # seconds, before a disk that failed is asked again
LASTING = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)

__all__ = [
    "HELD_OUT",
    "TRAIN",
    "Dataset",
    "Part",
    "Source",
    "Unreadable",
    "check_label",
    "open_image",
]


class Unreadable(Exception):
    """An image that cannot be read, with the reason; its name is the source's to tell."""


class Source(Protocol):
    """Images and labels by index, as Grain reads them: from any thread, in any order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """An RGB image and its class. Raises: Unreadable."""
        ...

    def name(self, index: int) -> str:
        """What a person finds the image by, such as its path."""
        ...


class Part(Source, Protocol):
    """The images of one part of a data set."""

    def identity(self) -> Iterable[str]:
        """What tells it from others, read from no image and the same wherever it lies."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Images to learn from and images to be judged by.

    Attributes:
        name: as the user gave it.
        train: to learn from.
        held_out: to be judged by; none of them is in `train`.
        classes: the name of each class, by label.
        transforms: how an image is prepared for evaluation, where no weights say otherwise.
        suits: settings that suit it, by their name in `Config`.
    """

    name: str
    train: Part
    held_out: Part
    classes: Sequence[str]
    transforms: Transforms = field(default_factory=Transforms)
    suits: Mapping[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """A short text that differs where classes, images or labels do, as far as names tell."""
        digest = hashlib.sha256()
        for names in (self.classes, self.train.identity(), self.held_out.identity()):
            digest.update(os.fsencode("\0".join(names)) + b"\0\0")
        return digest.hexdigest()[:16]


def open_image(file: str | PathLike[str] | BinaryIO, waits: Sequence[float] = WAITS) -> Image.Image:
    """The image in a file or a path, decoded and in RGB; a disk that fails is asked again.

    Raises: Unreadable.
    """
    try:
        with Image.open(file) as image:
            return to_rgb(image)
    except Exception as error:  # a damaged file can raise anything inside a decoder
        if waits and _may_pass(error):
            time.sleep(waits[0])
            return open_image(file, waits[1:])
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreadable(" ".join(reason.split())) from error


def _may_pass(error: Exception) -> bool:
    """Whether it is a disk's, such as "Stale file handle"; Pillow's own have no number."""
    is_numbered = isinstance(error, OSError) and error.errno is not None
    return is_numbered and not isinstance(error, LASTING)


def check_label(label: int, num_classes: int, name: str) -> None:
    """Raise Unreadable for a label below 0, as unlabelled images have, and ValueError for one that
    there is no class for.
    """
    if label < 0:
        raise Unreadable(f"its label {label} says that it has none")
    if label >= num_classes:
        raise ValueError(
            f"{name} has the label {label}, and there are {num_classes} classes: --num-classes is "
            "too small, or the list of classes too short"
        )
