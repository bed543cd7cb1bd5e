"""The Grain pipeline: the order of the images, their batches, and this process's share of each.

Everything depends only on the seed and the number of the batch, not on threads, worker processes or
the number of machines. The position of a run in its data is therefore a single number, and a
resumed run reads the same images as an uninterrupted one.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import grain
import numpy as np
from absl import flags
from PIL import Image

from flaxblocks.weights.preprocess import Transforms, resize_and_crop
from train.data.augment import Augmentation
from train.data.pieces import WHOLE, Pieces, Share, stacked
from train.data.source import Source, Unreadable

__all__ = [
    "Share",
    "held_out_batches",
    "held_out_steps",
    "take_unreadable",
    "train_batches",
    "train_steps",
]

Batch = dict[str, np.ndarray]
Record = dict[str, Any]  # a row of a batch
Prepare = Callable[[Image.Image], np.ndarray]
READABLE = -1
ENDLESS = sys.maxsize  # images
TRIES = 10  # images in a row that cannot be read before the run stops
# Batches read in advance: one is ready while the other is being read. A batch of 1,024 images of
# 224x224 takes 154 MB, and each reading process holds these in addition to the one in use.
AHEAD = 2


def reading_threads(workers: int) -> int:
    """Threads per reading process; they run in parallel as Pillow releases the GIL to decode."""
    cores = (os.cpu_count() or 1) // max(workers, 1)
    return min(16, max(4, cores))


def train_steps(source: Source, batch_size: int) -> int:
    """Batches per epoch; images that do not fill a batch are left out, different ones each epoch.

    Raises: ValueError if there are fewer images than in one batch.
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
    """This process's part of the training batches, each epoch in a different order.

    A batch has `image` `(B, H, W, 3)` uint8, `label` `(B,)` int32, `unreadable` `(B,)` int32 and
    `reason` `(B,)`, texts. Where an image cannot be read, the next one takes its place, and
    `unreadable` holds its index and `reason` why; otherwise `unreadable` is -1.

    Args:
        source: the images.
        augmentation: how to prepare each image; `Transforms` prepares it as in evaluation.
        batch_size: rows of a batch, over all processes.
        seed: seed of order and augmentation.
        epochs: number of epochs.
        start: number of the first batch, counted over all epochs.
        share: this process's part of each batch.
        workers: worker processes that read images; 0 reads in threads.
    """
    steps = train_steps(source, batch_size)
    images = grain.MapDataset.range(len(source)).seed(seed).shuffle()
    images = images.random_map(_Reader(source, augmentation))[: steps * batch_size]
    return _read(images, range(start, steps * epochs), batch_size, share, workers)


def held_out_steps(source: Source, batch_size: int) -> int:
    """Batches of one pass over all images; the last one is padded."""
    return -(-len(source) // batch_size)


def held_out_batches(
    source: Source,
    transforms: Transforms,
    *,
    batch_size: int,
    passes: int | None = 1,
    share: Share = WHOLE,
    workers: int = 0,
) -> grain.DatasetIterator[Batch]:
    """This process's part of the evaluation batches: every image once per pass, in order.

    A batch also has `weight` `(B,)` float32: 0 for an unreadable image and for the padding of the
    last batch of a pass, else 1. With `passes=None` the batches are endless, so that the readers
    continue from one pass to the next, a few batches ahead.
    """
    steps = held_out_steps(source, batch_size)
    images = grain.MapDataset.range(steps * batch_size).map(_HeldOutReader(source, transforms))
    count = ENDLESS // batch_size if passes is None else passes * steps
    return _read(images, range(count), batch_size, share, workers)


def take_unreadable(batch: Batch) -> dict[int, str]:
    """Remove `unreadable` and `reason` from a batch; return the reason by index of the image."""
    marks, reasons = batch.pop("unreadable"), batch.pop("reason")
    marked = marks != READABLE
    return dict(zip(marks[marked].tolist(), reasons[marked].tolist(), strict=True))


def _read(
    images: grain.MapDataset, numbers: range, batch_size: int, share: Share, workers: int
) -> grain.DatasetIterator[Batch]:
    threads = reading_threads(workers)
    pieces = Pieces(images, numbers, batch_size, share, threads)
    options = grain.ReadOptions(threads, max(threads, AHEAD * pieces.per_batch))
    batches = pieces.to_iter_dataset(options).batch(pieces.per_batch, batch_fn=stacked)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain starts no process before its absl flags are parsed
            flags.FLAGS.mark_as_parsed()
        processes = grain.MultiprocessingOptions(num_workers=workers)
        batches = batches.mp_prefetch(processes, sequential_slice=True)  # calls Pieces.set_slice
    return iter(batches)


def _prepared(source: Source, index: int, prepare: Prepare) -> tuple[np.ndarray, int]:
    """An image's pixels and its label. Raises: Unreadable."""
    image, label = source[index]
    try:
        return prepare(image), label
    except (OSError, ValueError) as error:  # such as 1x40000 pixels, too long to be resized
        raise Unreadable(str(error)) from error


class _Reader(grain.transforms.RandomMap):
    """Map an index to a training record; an unreadable image is replaced by the next one."""

    def __init__(self, source: Source, how: Augmentation | Transforms):
        self.source = source
        self.how = how

    def random_map(self, element: int, rng: np.random.Generator) -> Record:
        if isinstance(self.how, Augmentation):
            prepare: Prepare = partial(self.how, rng=rng)
        else:
            prepare = partial(resize_and_crop, transforms=self.how)
        reason = ""
        for shift in range(TRIES):
            index = (element + shift) % len(self.source)
            try:
                pixels, label = _prepared(self.source, index, prepare)
            except Unreadable as error:
                reason = reason or str(error)
                continue
            return _record(pixels, label, element if shift else READABLE, reason)
        raise ValueError(
            f"{self.source.name(element)} and the {TRIES - 1} images after it cannot be read: "
            f"{reason}"
        )


class _HeldOutReader(grain.transforms.Map):
    """Map an index to an evaluation record."""

    def __init__(self, source: Source, transforms: Transforms):
        self.source = source
        self.transforms = transforms

    def map(self, element: int) -> Record:
        blank = np.zeros((*self.transforms.crop_size, 3), np.uint8)
        if element >= len(self.source):
            return {**_record(blank, 0), "weight": np.float32(0)}
        prepare = partial(resize_and_crop, transforms=self.transforms)
        try:
            pixels, label = _prepared(self.source, element, prepare)
        except Unreadable as error:
            return {**_record(blank, 0, element, str(error)), "weight": np.float32(0)}
        return {**_record(pixels, label), "weight": np.float32(1)}


def _record(pixels: np.ndarray, label: int, unreadable: int = READABLE, reason: str = "") -> Record:
    return {
        "image": pixels,
        "label": np.int32(label),
        "unreadable": np.int32(unreadable),
        "reason": np.str_(reason),
    }
