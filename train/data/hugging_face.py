"""Hugging Face datasets, downloaded once from the hub, or in a folder written by `save_to_disk`."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from train.data.source import HELD_OUT, TRAIN, Dataset, Unreadable, check_label, open_image
from train.data.split import held_out_rows

__all__ = ["HuggingFaceSource", "open_hugging_face"]


class HuggingFaceSource:
    """The rows of one split."""

    def __init__(
        self, name: str, rows: Any, image: str, label: str, num_classes: int, identity: list[str]
    ):
        """Take a `datasets.Dataset` whose column `image` is not decoded, and texts that identify
        it.
        """
        self.source = name
        self._identity = identity
        self.rows = rows
        self.image = image
        self.label = label
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        row = self.rows[int(index)]
        label, stored = row[self.label], row[self.image]
        if label is None:
            raise Unreadable("it has no label")
        check_label(label, self.num_classes, self.name(index))
        if stored is None:
            raise Unreadable("it has no image")
        return open_image(stored["path"] if stored["bytes"] is None else _bytes(stored)), label

    def name(self, index: int) -> str:
        """A name such as `NAME, row 12`, with the row's path if it has one."""
        path = (self.rows[int(index)][self.image] or {}).get("path")
        return f"{self.source}, row {index}" + (f" ({path})" if path else "")

    def identity(self) -> list[str]:
        """The fingerprint and the features of the split, and the number of its rows used here."""
        return [*self._identity, str(len(self))]


def _bytes(stored: dict[str, Any]) -> io.BytesIO:
    return io.BytesIO(stored["bytes"])


def open_hugging_face(name: str, *, held_out: float, seed: int, num_classes: int | None) -> Dataset:
    """The images of a dataset whose features include an image and a class label.

    Args:
        name: a dataset on the hub, `NAME` or `NAME:CONFIG`, or a folder.
        held_out: fraction of each class to hold out if there is no split for validation or testing.
        seed: seed of the choice of held-out rows.
        num_classes: number of classes, used if the labels are plain integers.

    Raises: ValueError if the package is missing, or the dataset cannot be loaded or lacks these
        features.
    """
    splits = _load(name)
    if TRAIN not in splits:
        raise ValueError(
            f"--data hf:{name} has the splits {sorted(splits)}, but none called 'train'"
        )
    features = splits[TRAIN].features
    image = _column(features, "Image", name)
    label = _column(features, "ClassLabel", name, otherwise=("label", "labels", "fine_label"))
    classes = getattr(features[label], "names", None)
    if classes is None:
        if num_classes is None:
            raise ValueError(
                f"--data hf:{name} does not name its classes: --num-classes must be given"
            )
        classes = [str(i) for i in range(num_classes)]
    judged = next((part for part in HELD_OUT if part in splits), None)
    if judged is None:
        train, test = _split(splits[TRAIN], label, len(classes), held_out, seed)
    else:
        train, test = splits[TRAIN], splits[judged]

    def source(part: str, rows: Any, split: Any) -> HuggingFaceSource:
        from datasets import Image as ImageFeature

        undecoded = rows.cast_column(image, ImageFeature(decode=False))
        identity = [split._fingerprint, json.dumps(split.features.to_dict(), sort_keys=True)]
        return HuggingFaceSource(
            f"hf:{name}/{part}", undecoded, image, label, len(classes), identity
        )

    return Dataset(
        name=f"hf:{name}",
        train=source(TRAIN, train, splits[TRAIN]),
        held_out=source(judged or "held out", test, splits[judged or TRAIN]),
        classes=list(classes),
    )


def _split(rows: Any, label: str, num_classes: int, share: float, seed: int) -> tuple[Any, Any]:
    """The training rows and the held-out rows; rows without a label count as one extra class."""
    labels = [num_classes if of is None or of < 0 else of for of in rows[label][:]]
    held = held_out_rows(labels, share, seed)
    return rows.select(np.flatnonzero(~held)), rows.select(np.flatnonzero(held))


def _load(name: str) -> dict[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"--data hf:{name} needs the package `datasets`: pip install datasets"
        ) from error
    try:
        if Path(name).is_dir():
            found: Any = datasets.load_from_disk(name)
        else:
            repository, _, config = name.partition(":")
            found = datasets.load_dataset(repository, config or None)
    except Exception as error:  # from the hub, the network or the files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"--data hf:{name} cannot be loaded: {reason}") from error
    return dict(found) if isinstance(found, dict) else {TRAIN: found}


def _column(features: Any, kind: str, name: str, otherwise: tuple[str, ...] = ()) -> str:
    """The only column of a kind, else the first whose name is in `otherwise`, else the first of
    that kind.
    """
    of_kind = [column for column, feature in features.items() if type(feature).__name__ == kind]
    if len(of_kind) == 1:
        return of_kind[0]
    called = [column for column in (*otherwise, *of_kind) if column in features]
    if not called:
        raise ValueError(
            f"--data hf:{name} has the columns {sorted(features)}, but no {kind} among them"
        )
    return called[0]
