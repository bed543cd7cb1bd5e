"""Handwritten digits: 1,437 to learn from and the 360 of the demo to be judged by.

From the UCI "Optical Recognition of Handwritten Digits" set (Alpaydin and Kaynak 1998,
https://archive.ics.uci.edu/dataset/80), as scikit-learn carries it.
"""

import numpy as np
from PIL import Image

from flaxblocks.demo.digits import MAX_VALUE, MEAN, SIZE, STD, split_digits
from flaxblocks.weights.preprocess import Transforms
from train.data.source import Dataset

__all__ = ["DigitSource", "open_digits"]


SIDE = 36  # pixels; of the demo's 32, five halvings leave one pixel, and of these two by two


class DigitSource:
    """Scans of digits as RGB images of 32x32."""

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
        """`digits/train/12`."""
        return f"digits/{self.part}/{index}"

    def identity(self) -> list[str]:
        """Its name: there are no others."""
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
        # Chosen on digits split off the training set: a mirrored digit is another thing, and of
        # so few images each must be seen in many steps.
        suits={"batch_size": 16, "lr": 0.01, "min_crop": 0.8, "flip": 0.0},
    )
