"""Handwritten digits: 1,437 for training, and the demo's 360 held out.

From the UCI data set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998,
https://archive.ics.uci.edu/dataset/80), as included in scikit-learn.
"""

import numpy as np
from PIL import Image

from flaxblocks.demo.digits import MAX_VALUE, MEAN, SIZE, STD, split_digits
from flaxblocks.weights.preprocess import Transforms
from train.data.source import Dataset

__all__ = ["DigitSource", "open_digits"]


SIDE = 36  # pixels; halved five times, this leaves 2x2 pixels, while the demo's 32 leaves one


class DigitSource:
    """Scans of digits as RGB images of 32x32 pixels."""

    def __init__(self, part: str, scans: np.ndarray, labels: np.ndarray):
        """Take scans `(N, 8, 8)`, ink from 0 to 16, and labels `(N,)`."""
        self.part = part
        self.scans = scans
        self.labels = labels

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        large = Image.fromarray(self.scans[index].astype(np.float32)).resize(
            (SIZE, SIZE), Image.Resampling.BILINEAR
        )
        grey = np.rint(np.asarray(large) * (255 / MAX_VALUE)).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB"), int(self.labels[index])

    def name(self, index: int) -> str:
        """A name such as `digits/train/12`."""
        return f"digits/{self.part}/{index}"

    def identity(self) -> list[str]:
        """The name of the part: there is only one such data set."""
        return [f"digits/{self.part}"]


def open_digits() -> Dataset:
    """The digits; the held-out ones are those of `flaxblocks demo`."""
    train_scans, held_out_scans, train_labels, held_out_labels = split_digits()
    return Dataset(
        name="digits",
        train=DigitSource("train", train_scans, train_labels),
        held_out=DigitSource("held_out", held_out_scans, held_out_labels),
        classes=[str(digit) for digit in range(10)],
        transforms=Transforms(
            resize_size=(SIDE, SIDE),
            crop_size=(SIDE, SIDE),
            crop_mode="squash",
            mean=(MEAN, MEAN, MEAN),
            std=(STD, STD, STD),
        ),
        # Chosen on digits split off the training set: a mirrored digit is no longer that digit, and
        # so small a data set needs many steps per epoch.
        suits={"batch_size": 16, "lr": 0.01, "min_crop": 0.8, "flip": 0.0},
    )
