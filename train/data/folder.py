"""A folder with one subfolder of image files per class, as torchvision's ImageFolder reads it."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from train.data.source import HELD_OUT, TRAIN, Dataset, open_image
from train.data.split import held_out_rows

__all__ = ["FolderSource", "open_folder"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class FolderSource:
    """Image files and their labels."""

    def __init__(self, root: Path, paths: Sequence[str], labels: Sequence[int]):
        """Take the folder of all data, paths of images in it, and one label per path."""
        self.root = str(root)
        self.paths = list(paths)
        self.labels = list(labels)

    def __len__(self) -> int:
        return len(self.paths)

    def only(self, rows: np.ndarray) -> "FolderSource":
        """The images of these rows only."""
        return FolderSource(
            Path(self.root), [self.paths[i] for i in rows], [self.labels[i] for i in rows]
        )

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return open_image(self.paths[index]), self.labels[index]

    def name(self, index: int) -> str:
        """The path of the image."""
        return self.paths[index]

    def identity(self) -> Iterator[str]:
        """Each path, relative to the folder of all data, with its label."""
        for path, label in zip(self.paths, self.labels, strict=True):
            yield f"{path.removeprefix(self.root)} {label}"


def open_folder(root: Path, held_out: float, seed: int) -> Dataset:
    """The data set in `root/CLASS/*.jpg`, or in `root/train/CLASS/*.jpg` and
    `root/val/CLASS/*.jpg`.

    Classes are numbered in the order of their names. Subfolders of a class are searched too, and
    hidden files are ignored.

    Args:
        root: the folder.
        held_out: fraction of each class to hold out if there is no `train` folder; below 1, each
            class has at least one image held out and one not.
        seed: seed of the choice of held-out images.

    Raises: ValueError if the folder is missing, has no class or an empty one, or if `val` has a
        class that `train` lacks.
    """
    if not root.is_dir():
        raise ValueError(f"--data {root}: no such folder, and it is not `digits` or `hf:NAME`")
    if not (root / TRAIN).is_dir():
        return _split(root, held_out, seed)
    held_out_root = next((root / name for name in HELD_OUT if (root / name).is_dir()), None)
    if held_out_root is None:
        raise ValueError(f"{root} has the folder {TRAIN!r} but none of {HELD_OUT}")
    classes = _class_names(root / TRAIN)
    unknown = sorted(set(_class_names(held_out_root)) - set(classes))
    if unknown:
        raise ValueError(
            f"{held_out_root} has the class {unknown[0]!r}, which {root / TRAIN} lacks"
        )
    return Dataset(
        name=str(root),
        train=_source(root, TRAIN, classes),
        held_out=_source(root, held_out_root.name, classes),
        classes=classes,
    )


def _split(root: Path, share: float, seed: int) -> Dataset:
    classes = _class_names(root)
    images = _source(root, "", classes)
    held = held_out_rows(images.labels, share, seed)
    for label, count in enumerate(np.bincount(images.labels)):
        if count < 2 and share < 1:
            raise ValueError(
                f"{root / classes[label]} has one image: without a folder 'val' a class needs two, "
                "one to train on and one to hold out"
            )
    return Dataset(
        name=str(root),
        train=images.only(np.flatnonzero(~held)),
        held_out=images.only(np.flatnonzero(held)),
        classes=classes,
    )


def _source(root: Path, part: str, classes: Sequence[str]) -> FolderSource:
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        folder = root / part / name
        if folder.is_dir():
            found = _images(folder)
            paths += found
            labels += [label] * len(found)
    return FolderSource(root, paths, labels)


def _class_names(root: Path) -> list[str]:
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise ValueError(f"{root} has no folder of a class: images must be in {root}/CLASS/")
    return names


def _images(folder: Path) -> list[str]:
    found = sorted(_walk(folder))
    if not found:
        raise ValueError(f"the class {folder} is empty: it holds no file ending in {SUFFIXES}")
    return found


def _walk(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.join(parent, name)
