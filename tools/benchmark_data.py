"""Measure how fast images are read, decoded and augmented on this machine.

    python -m tools.benchmark_data photos --make 1000
    python -m tools.benchmark_data photos --threads 1 2 4 --workers 0 2

The pipeline is that of `python -m train --data photos`, without a network. `--make` writes smooth
random JPEG files of 500x375 pixels, about the size of ImageNet's, if the folder does not exist.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image

from train.data import pipeline
from train.data.augment import Augmentation
from train.data.folder import open_folder
from train.data.source import Source

SECONDS = 10.0  # of reading, after the first batch
GRID = (12, 16, 3)  # random colours that are enlarged to a picture


def make(folder: Path, count: int) -> None:
    """Write `count` random pictures in two classes."""
    rng = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, GRID, np.uint8))
        large = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
        noisy = np.clip(large + rng.normal(0, 8, large.shape), 0, 255).astype(np.uint8)
        target = folder / "ab"[i % 2] / f"{i:06}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(target, quality=90)


def measure(source: Source, batch: int, size: int, workers: int) -> tuple[float, float]:
    """The seconds until the first batch, and the images per second after it."""
    augmentation = Augmentation((size, size), "bilinear", min_crop=0.08, flip=0.5, trivial=False)
    start = time.perf_counter()
    batches = pipeline.train_batches(
        source, augmentation, batch_size=batch, seed=0, epochs=1_000, workers=workers
    )
    next(batches)
    began = time.perf_counter()
    count = 0
    while time.perf_counter() - began < SECONDS:
        count += len(next(batches)["label"])
    rate = count / (time.perf_counter() - began)
    batches.close()
    return began - start, rate


def main() -> None:
    """Parse the arguments, measure each setting in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="folder with a subfolder of images per class")
    parser.add_argument("--make", type=int, metavar="COUNT", help="first write this many pictures")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument(
        "--threads", type=int, nargs="+", help="threads per process; by default as in training"
    )
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0], help="worker processes; 0 reads in threads"
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of turns of each setting")
    options = parser.parse_args()
    if options.make and not options.folder.exists():
        make(options.folder, options.make)
    source = open_folder(options.folder, 0.1, 0).train
    print(f"{len(source):,} images, batch {options.batch}, {options.size}x{options.size}")
    usual = pipeline.reading_threads
    for _ in range(options.rounds):
        for workers in options.workers:
            for threads in options.threads or [usual(workers)]:
                pipeline.reading_threads = lambda _, threads=threads: threads
                first, rate = measure(source, options.batch, options.size, workers)
                way = f"workers {workers:2}, threads {threads:2}"
                print(f"{way}: first batch {first:5.2f} s, {rate:7.0f} images/s", flush=True)


if __name__ == "__main__":
    main()
