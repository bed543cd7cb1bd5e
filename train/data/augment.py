"""Augmentation of a training image: random resized crop, flip, TrivialAugment.

Random numbers come from the generator that Grain provides for each image, which depends only on the
seed and on the image's position in the run.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from train.data.trivial import trivial_augment

__all__ = ["Augmentation", "random_crop_box"]

RATIO = (3 / 4, 4 / 3)  # range of the width of a crop divided by its height
TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of a training image.

    Attributes:
        size: (height, width) of the result.
        interpolation: name of Pillow's resampling filter.
        min_crop: smallest fraction of the image's area in a crop.
        flip: probability of a horizontal flip.
        trivial: whether to apply TrivialAugment.
    """

    size: tuple[int, int]
    interpolation: str
    min_crop: float
    flip: float
    trivial: bool

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """Augment an RGB image; returns pixels `(H, W, 3)`, uint8."""
        height, width = self.size
        box = random_crop_box(image.width, image.height, self.min_crop, rng)
        crop = image.crop(box).resize((width, height), Image.Resampling[self.interpolation.upper()])
        if rng.random() < self.flip:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.trivial:
            crop = trivial_augment(crop, rng)
        return np.asarray(crop)


def random_crop_box(
    width: int, height: int, min_crop: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a crop with random area and aspect ratio.

    The area is uniform in [min_crop, 1] times that of the image, the ratio of width to height
    log-uniform in [3/4, 4/3]. After ten crops that do not fit, the result is the largest central
    crop with an allowed ratio.

    Source: torchvision `RandomResizedCrop.get_params`; Szegedy et al. 2014,
        https://arxiv.org/abs/1409.4842, section 6.
    """
    for _ in range(TRIES):
        area = width * height * rng.uniform(min_crop, 1)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(0, width - w, endpoint=True))
            top = int(rng.integers(0, height - h, endpoint=True))
            return left, top, left + w, top + h
    ratio = min(max(width / height, RATIO[0]), RATIO[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
