"""The order of the images, by Grain: which come in which batch, and this process's share of them.

Everything depends on the seed and on a batch's number alone: not on threads, worker processes,
or how many machines share the work. So a run's place in its data is one number, and a run that
goes on from there sees what it would have seen.
"""

import os
from collections.abc import Callable
from typing import Any

import grain
import numpy as np
from absl import flags

from flaxblocks.preprocess import Transforms, resize_and_crop
from train.data.augment import Augmentation
from train.data.rows import WHOLE, Rows, Share
from train.data.source import Source, Unreadable

__all__ = ["Share", "held_out_batches", "take_unreadable", "train_batches", "train_steps"]

Batch = dict[str, np.ndarray]
Record = dict[str, Any]  # a row of a batch
READABLE = -1
TRIES = 10  # images in a row that cannot be read before the run stops
# Batches read before they are needed: one waits while the other is read. Of 1,024 images of
# 224x224 a batch has 154 MB, and these lie beside the one in use, for each process that reads.
AHEAD = 2


def reading_threads(workers: int) -> int:
    """Threads of each process that reads: Pillow lets go of the interpreter while it decodes."""
    cores = (os.cpu_count() or 1) // max(workers, 1)
    return min(16, max(4, cores))


def train_steps(source: Source, batch_size: int) -> int:
    """Batches of an epoch; what does not fill one is left out, other images each time.

    Raises: ValueError if there are fewer images than one batch holds.
    """
    if len(source) < batch_size:
        raise ValueError(
            f"--batch-size {batch_size} must be at most {len(source)}, the number of images to "
            "train on"
        )
    return len(source) // batch_size


def train_batches(
    source: Source,
    augmentation: Augmentation | Transforms,
    *,
    batch_size: int,
    seed: int,
    epochs: int,
    start: int = 0,
    share: Share = WHOLE,
    workers: int = 0,
) -> grain.DatasetIterator[Batch]:
    """Batches from number `start` on, each epoch in an order of its own.

    A batch is `image` `(B, H, W, 3)` uint8, `label` `(B,)` int32, and `unreadable` `(B,)` int32:
    the index of an image that could not be read and that the next one stands in for, else -1.

    Args:
        source: the images.
        augmentation: what happens to each; `Transforms` for what evaluation does.
        batch_size: of all processes together.
        seed: of order and augmentation.
        epochs: after which it ends.
        start: the number of the first batch, over all epochs.
        share: this process's part of each batch.
        workers: processes that read; 0 reads in threads.
    """
    steps = train_steps(source, batch_size)
    images = grain.MapDataset.range(len(source)).seed(seed).shuffle()
    images = images.random_map(_Reader(source, augmentation))[: steps * batch_size]
    return _read(Rows(images, range(start, steps * epochs), batch_size, share), workers)


def held_out_batches(
    source: Source,
    transforms: Transforms,
    *,
    batch_size: int,
    share: Share = WHOLE,
    workers: int = 0,
) -> grain.DatasetIterator[Batch]:
    """Every image once, in order, with `weight` `(B,)` float32: 0 for one that could not be read
    and for what fills the last batch, else 1.
    """
    steps = -(-len(source) // batch_size)
    images = grain.MapDataset.range(steps * batch_size).map(_HeldOutReader(source, transforms))
    return _read(Rows(images, range(steps), batch_size, share), workers)


def take_unreadable(batch: Batch) -> list[int]:
    """Take the marks out of a batch: the indices of the images that could not be read."""
    marks = batch.pop("unreadable")
    return marks[marks != READABLE].tolist()


def _read(rows: Rows, workers: int) -> grain.DatasetIterator[Batch]:
    threads = reading_threads(workers)
    options = grain.ReadOptions(threads, max(threads, AHEAD * rows.rows))
    batches = rows.to_iter_dataset(options).batch(rows.rows)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain has some, and starts no process before they are
            flags.FLAGS.mark_as_parsed()
        processes = grain.MultiprocessingOptions(num_workers=workers)
        batches = batches.mp_prefetch(processes, sequential_slice=True)  # calls Rows.set_slice
    return iter(batches)


def _prepare(how: Augmentation | Transforms) -> Callable[[Any, np.random.Generator], np.ndarray]:
    if isinstance(how, Augmentation):
        return how
    return lambda image, _: resize_and_crop(image, how)


class _Reader(grain.transforms.RandomMap):
    """An index to a training record; for an image that cannot be read, the next one's."""

    def __init__(self, source: Source, how: Augmentation | Transforms):
        self.source = source
        self.how = how

    def random_map(self, element: int, rng: np.random.Generator) -> Record:
        prepare = _prepare(self.how)
        unreadable = READABLE
        for shift in range(TRIES):
            index = (element + shift) % len(self.source)
            try:
                image, label = self.source[index]
            except Unreadable:
                unreadable = element
                continue
            return _record(prepare(image, rng), label, unreadable)
        raise ValueError(
            f"{self.source.name(element)} and the {TRIES - 1} images after it cannot be read"
        )


class _HeldOutReader(grain.transforms.Map):
    """An index to an evaluation record."""

    def __init__(self, source: Source, transforms: Transforms):
        self.source = source
        self.transforms = transforms

    def map(self, element: int) -> Record:
        blank = np.zeros((*self.transforms.crop_size, 3), np.uint8)
        if element >= len(self.source):
            return {**_record(blank, 0, READABLE), "weight": np.float32(0)}
        try:
            image, label = self.source[element]
        except Unreadable:
            return {**_record(blank, 0, element), "weight": np.float32(0)}
        pixels = resize_and_crop(image, self.transforms)
        return {**_record(pixels, label, READABLE), "weight": np.float32(1)}


def _record(pixels: np.ndarray, label: int, unreadable: int) -> Record:
    return {
        "image": pixels,
        "label": np.int32(label),
        "unreadable": np.int32(unreadable),
    }
