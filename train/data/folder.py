"""A folder of image files, one folder a class, as torchvision's ImageFolder reads it."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from train.data.source import HELD_OUT, TRAIN, Dataset, open_image

__all__ = ["FolderSource", "open_folder"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class FolderSource:
    """Image files and their labels."""

    def __init__(self, paths: Sequence[str], labels: Sequence[int]):
        """Take as many labels as paths."""
        self.paths = list(paths)
        self.labels = list(labels)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return open_image(self.paths[index]), self.labels[index]

    def name(self, index: int) -> str:
        """The path."""
        return self.paths[index]


def open_folder(root: Path, held_out: float, seed: int) -> Dataset:
    """`root/CLASS/*.jpg`, or `root/train/CLASS/*.jpg` beside `root/val/CLASS/*.jpg`.

    Classes are numbered in the order of their names. Folders within a class are searched too, and
    hidden files are not images.

    Args:
        root: the folder.
        held_out: share of each class to hold out where there is no `val`; below 1, at least one
            image is held out and one is not.
        seed: of the choice of them.

    Raises: ValueError for a folder that is missing, has no class, an empty class, or in `val` a
        class that `train` has not.
    """
    if not root.is_dir():
        raise ValueError(f"--data {root}: there is no such folder")
    if not (root / TRAIN).is_dir():
        return _split(root, held_out, seed)
    held_out_root = next((root / name for name in HELD_OUT if (root / name).is_dir()), None)
    if held_out_root is None:
        raise ValueError(f"--data {root} has the folder {TRAIN!r} and none of {HELD_OUT}")
    classes = _class_names(root / TRAIN)
    unknown = sorted(set(_class_names(held_out_root)) - set(classes))
    if unknown:
        raise ValueError(
            f"{held_out_root} has the class {unknown[0]!r}, which {root / TRAIN} has not"
        )
    return Dataset(
        name=str(root),
        train=_source(root / TRAIN, classes),
        held_out=_source(held_out_root, classes),
        classes=classes,
    )


def _split(root: Path, share: float, seed: int) -> Dataset:
    """Hold out `share` of each class, drawn anew for each so that one more class moves no other."""
    classes = _class_names(root)
    kept: tuple[list, list] = ([], [])
    held: tuple[list, list] = ([], [])
    for label, name in enumerate(classes):
        paths = _images(root / name)
        if len(paths) < 2 and share < 1:
            raise ValueError(
                f"{root / name} has one image: without a folder 'val' a class needs two, one to "
                "learn from and one to hold out"
            )
        order = np.random.default_rng([seed, label]).permutation(len(paths))
        count = len(paths)
        if share < 1:
            count = min(max(1, round(share * count)), count - 1)
        held_out = set(order[:count].tolist())
        for i, path in enumerate(paths):
            part = held if i in held_out else kept
            part[0].append(path)
            part[1].append(label)
    return Dataset(
        name=str(root), train=FolderSource(*kept), held_out=FolderSource(*held), classes=classes
    )


def _source(root: Path, classes: Sequence[str]) -> FolderSource:
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if (root / name).is_dir():
            found = _images(root / name)
            paths += found
            labels += [label] * len(found)
    return FolderSource(paths, labels)


def _class_names(root: Path) -> list[str]:
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise ValueError(f"{root} has no folder of a class: images lie in {root}/CLASS/")
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
