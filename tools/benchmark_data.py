"""How fast images are read, decoded and augmented here: images a second, and the first batch.

    python -m tools.benchmark_data photos --make 1000
    python -m tools.benchmark_data photos --threads 1 2 4 --workers 0 2

The way is that of `python -m train --data photos`, without a network at its end. `--make` writes
smooth random JPEG files of 500x375, as large as ImageNet's are, into a folder that is not there.
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

SECONDS = 10.0  # of reading, after the first batch of each way
GRID = (12, 16, 3)  # random colours that a picture is blown up from


def make(folder: Path, count: int) -> None:
    """Write pictures of two classes."""
    rng = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, GRID, np.uint8))
        large = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
        noisy = np.clip(large + rng.normal(0, 8, large.shape), 0, 255).astype(np.uint8)
        target = folder / "ab"[i % 2] / f"{i:06}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(target, quality=90)


def measure(source: Source, batch: int, size: int, workers: int) -> tuple[float, float]:
    """Seconds until the first batch, and images a second from then on."""
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
    """Parse the arguments, measure each way in turn, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="of images by class")
    parser.add_argument("--make", type=int, metavar="COUNT", help="write so many pictures first")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, nargs="+", help="of each process; else as in train")
    parser.add_argument("--workers", type=int, nargs="+", default=[0], help="processes; 0: none")
    parser.add_argument("--rounds", type=int, default=3, help="turns of all ways")
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
