"""The order of the images: by the seed alone, whatever reads them, from any point on."""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flaxblocks.weights.preprocess import Transforms
from train.data import pipeline
from train.data.augment import Augmentation
from train.data.pipeline import (
    Share,
    held_out_batches,
    take_unreadable,
    train_batches,
    train_steps,
)
from train.data.source import Unreadable

SMALL = Transforms(resize_size=(8, 8), crop_size=(8, 8), crop_mode="squash")
RANDOM = Augmentation((8, 8), "bilinear", min_crop=0.5, flip=0.5, trivial=True)


class Numbered:
    """Images that show their number, as their first channel and their label."""

    def __init__(self, count: int, unreadable: tuple[int, ...] = ()):
        self.count = count
        self.unreadable = unreadable

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index in self.unreadable:
            raise Unreadable("damaged")
        noise = np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8)
        noise[..., 0] = index
        return Image.fromarray(noise), index

    def name(self, index: int) -> str:
        return f"number {index}"


def labels(batches: Iterator[dict[str, np.ndarray]]) -> list[list[int]]:
    return [batch["label"].tolist() for batch in batches]


def batches_of(
    source: Numbered, how: Augmentation | Transforms = SMALL, **settings: Any
) -> Iterator[dict[str, np.ndarray]]:
    settings = {"batch_size": 8, "seed": 0, "epochs": 3} | settings
    return train_batches(source, how, **settings)


def test_each_epoch_has_each_image_once_in_an_order_of_its_own() -> None:
    all_labels = labels(batches_of(Numbered(24)))
    assert len(all_labels) == 9
    epochs = [list(chain(*all_labels[i : i + 3])) for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert labels(batches_of(Numbered(24))) == all_labels
    assert labels(batches_of(Numbered(24), seed=5)) != all_labels


def test_what_fills_no_batch_is_left_out_another_each_time() -> None:
    assert train_steps(Numbered(27), 8) == 3
    all_labels = labels(batches_of(Numbered(27)))
    assert len(all_labels) == 9
    left_out = [set(range(27)) - set(chain(*all_labels[i : i + 3])) for i in (0, 3, 6)]
    assert [len(rest) for rest in left_out] == [3, 3, 3]
    assert left_out[0] != left_out[1]
    with pytest.raises(ValueError, match="--batch-size 28 must be at most 27"):
        train_steps(Numbered(27), 28)


def digest_of(batches: Iterable[dict[str, np.ndarray]]) -> str:
    names = ("image", "label", "unreadable")
    values = b"".join(batch[name].tobytes() for batch in batches for name in names)
    return hashlib.sha256(values).hexdigest()[:16]


@pytest.mark.parametrize(
    ("start", "share", "digest"),
    [
        (0, Share(), "893ff16c87e62222"),
        (4, Share(), "1e5b2380df43508f"),
        (0, Share(1, 2), "513142a34d4aeb5e"),
        (7, Share(3, 4), "78309bd7b2d4be54"),
    ],
)
def test_a_seed_gives_what_it_always_gave(start: int, share: Share, digest: str) -> None:
    """Recorded when Grain itself put the batches together; no filter of Pillow's takes part."""
    how = Augmentation((8, 8), "nearest", min_crop=0.5, flip=0.5, trivial=False)
    source = Numbered(27, unreadable=(3, 4, 23))
    assert digest_of(batches_of(source, how, start=start, share=share)) == digest


def test_the_held_out_images_are_what_they_always_were() -> None:
    how = Transforms((8, 8), (8, 8), interpolation="nearest", crop_mode="squash")
    batches = held_out_batches(Numbered(13, unreadable=(5,)), how, batch_size=4)
    assert digest_of(batches) == "809b4d313786def4"


class Together(Numbered):
    """Images of which the first come when so many are asked for at once, and not before."""

    def __init__(self, count: int, readers: int):
        super().__init__(count)
        self.barrier = threading.Barrier(readers)
        self.left = readers
        self.lock = threading.Lock()

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        with self.lock:
            first, self.left = self.left > 0, self.left - 1
        if first:
            self.barrier.wait(timeout=30)
        return super().__getitem__(index)


def test_all_threads_read_the_first_batch() -> None:
    """And there is no other: one thread that builds it alone would wait for ever."""
    readers = pipeline.reading_threads(workers=0)
    source = Together(readers, readers)
    assert len(list(batches_of(source, batch_size=readers, epochs=1))) == 1
    source = Together(readers, readers)
    assert len(list(held_out_batches(source, SMALL, batch_size=readers))) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_from_any_point_on_it_is_the_same(workers: int) -> None:
    """Pixels too: what is random for an image depends on the image's place in the run."""
    whole = list(batches_of(Numbered(27), RANDOM))
    for start in (0, 4, 8):
        rest = list(batches_of(Numbered(27), RANDOM, start=start, workers=workers))
        assert len(rest) == 9 - start
        for one, other in zip(rest, whole[start:], strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)


def test_an_image_is_augmented_anew_in_each_epoch() -> None:
    seen: dict[int, set[bytes]] = {}
    for batch in batches_of(Numbered(24), RANDOM):
        for image, label in zip(batch["image"], batch["label"], strict=True):
            seen.setdefault(int(label), set()).add(image.tobytes())
    assert sum(len(looks) for looks in seen.values()) > 68  # of 72; TrivialAugment may do nothing


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_batch_in_order(processes: int) -> None:
    whole = list(batches_of(Numbered(27), RANDOM))
    shares = [
        list(batches_of(Numbered(27), RANDOM, share=Share(process, processes), start=1))
        for process in range(processes)
    ]
    for expected, *parts in zip(whole[1:], *shares, strict=True):
        joined = np.concatenate([part["image"] for part in parts])
        np.testing.assert_array_equal(joined, expected["image"])


def test_another_image_stands_in_for_one_that_cannot_be_read() -> None:
    batches = list(batches_of(Numbered(24, unreadable=(3, 4, 23)), epochs=1))
    every = np.concatenate([batch["label"] for batch in batches])
    marks = np.concatenate([batch["unreadable"] for batch in batches])
    assert sorted(marks[marks >= 0].tolist()) == [3, 4, 23]
    stands_in = dict(zip(marks.tolist(), every.tolist(), strict=True))
    assert (stands_in[3], stands_in[4], stands_in[23]) == (5, 5, 0)
    assert sorted(every.tolist()) == sorted([*set(range(24)) - {3, 4, 23}, 5, 5, 0])


def test_many_that_cannot_be_read_end_the_run() -> None:
    source = Numbered(24, unreadable=tuple(range(24)))
    message = r"number \d+ and the 9 images after it cannot be read: damaged"
    with pytest.raises(ValueError, match=message):
        list(batches_of(source))


class Slivers(Numbered):
    """Two of the images are too long and narrow to be resized."""

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        image, label = super().__getitem__(index)
        return (Image.new("RGB", (1, 40000)) if index in (2, 3) else image), label


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_prepared_is_unreadable_with_the_reason(workers: int) -> None:
    how = Transforms(resize_size=300, crop_size=(8, 8))
    reason = (
        r"image 'Image' is too long and narrow: its width and height (1, 40000) would be "
        r"resized to (300, 12000000)"
    )
    seen: dict[int, str] = {}
    every: list[int] = []
    for batch in batches_of(Slivers(12), how, batch_size=4, epochs=1, workers=workers):
        seen |= take_unreadable(batch)
        every += batch["label"].tolist()
    assert seen == {2: reason, 3: reason}
    assert sorted(every) == [0, 1, 4, 4, 4, *range(5, 12)]
    (batch,) = held_out_batches(Slivers(12), how, batch_size=12, workers=workers)
    assert take_unreadable(batch) == {2: reason, 3: reason}
    assert batch["weight"].tolist() == [1, 1, 0, 0, *[1] * 8]


class Imageless(Numbered):
    """A mistake of the program, not of an image."""

    def __getitem__(self, index: int) -> Any:
        return None, index


def test_a_mistake_of_the_program_is_no_unreadable_image() -> None:
    with pytest.raises(AttributeError):
        list(batches_of(Imageless(12), RANDOM))


@pytest.mark.parametrize("processes", [1, 2])
def test_the_held_out_images_come_once_each_and_in_order(processes: int) -> None:
    shares = [
        list(
            held_out_batches(
                Numbered(13, unreadable=(5,)), SMALL, batch_size=4, share=Share(i, processes)
            )
        )
        for i in range(processes)
    ]
    rows: dict[str, list] = {"label": [], "weight": [], "unreadable": []}
    for parts in zip(*shares, strict=True):
        for name in rows:
            rows[name] += np.concatenate([part[name] for part in parts]).tolist()
    assert rows["weight"] == [1.0] * 5 + [0.0] + [1.0] * 7 + [0.0] * 3
    assert [label for label, w in zip(rows["label"], rows["weight"], strict=True) if w] == [
        i for i in range(13) if i != 5
    ]
    assert [i for i in rows["unreadable"] if i >= 0] == [5]
