"""The interface of a data set: images and labels by index."""

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
HELD_OUT = ("val", "validation", "test")  # the first that exists is used
WAITS = (0.1, 1.0)  # seconds before each retry after a disk error
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
    """An image that cannot be read, with the reason; its name is `Source.name`."""


class Source(Protocol):
    """Images and labels by index, which Grain reads from any thread and in any order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """An RGB image and its class. Raises: Unreadable."""
        ...

    def name(self, index: int) -> str:
        """A name by which a person finds the image, such as its path."""
        ...


class Part(Source, Protocol):
    """The images of one part of a data set."""

    def identity(self) -> Iterable[str]:
        """Texts that identify the part, made without reading images and independent of its place
        on disk.
        """
        ...


@dataclass(frozen=True)
class Dataset:
    """Training images and held-out images.

    Attributes:
        name: its name as the user gave it.
        train: the training images.
        held_out: the images to evaluate on; none of them is in `train`.
        classes: the name of each class, by label.
        transforms: how to prepare an image for evaluation, unless published weights define it.
        suits: default settings for this data, by their name in `Config`.
    """

    name: str
    train: Part
    held_out: Part
    classes: Sequence[str]
    transforms: Transforms = field(default_factory=Transforms)
    suits: Mapping[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """A short hash of the classes, images and labels, as far as names identify them."""
        digest = hashlib.sha256()
        for names in (self.classes, self.train.identity(), self.held_out.identity()):
            digest.update(os.fsencode("\0".join(names)) + b"\0\0")
        return digest.hexdigest()[:16]


def open_image(file: str | PathLike[str] | BinaryIO, waits: Sequence[float] = WAITS) -> Image.Image:
    """Decode an image file as RGB; reading is retried after a disk error.

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
    """Whether an error is a transient one of the disk, such as "Stale file handle"; errors raised
    by Pillow itself have no `errno`.
    """
    is_numbered = isinstance(error, OSError) and error.errno is not None
    return is_numbered and not isinstance(error, LASTING)


def check_label(label: int, num_classes: int, name: str) -> None:
    """Check that a label is that of a class.

    Raises:
        Unreadable: it is below 0, as in unlabelled images.
        ValueError: it is `num_classes` or more.
    """
    if label < 0:
        raise Unreadable(f"its label {label} means that it has none")
    if label >= num_classes:
        raise ValueError(
            f"{name} has the label {label}, but there are {num_classes} classes: --num-classes is "
            "too small, or the list of classes too short"
        )
