"""From an image to the pixels that a network sees in training: random crop, flip, TrivialAugment.

Random numbers come from the generator that Grain gives each image, which depends on the seed and
on the image's place in the run alone.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from train.data.trivial import trivial_augment

__all__ = ["Augmentation", "random_crop_box"]

RATIO = (3 / 4, 4 / 3)  # of width to height, of a crop
TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image.

    Attributes:
        size: (height, width) of the result.
        interpolation: Pillow's filter.
        min_crop: smallest share of the image's area in a crop.
        flip: probability of a left-right flip.
        trivial: apply TrivialAugment.
    """

    size: tuple[int, int]
    interpolation: str
    min_crop: float
    flip: float
    trivial: bool

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """Pixels `(H, W, 3)`, uint8, of an RGB image."""
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
    """(left, top, right, bottom) of a crop of random area and aspect ratio.

    The area is uniform in [min_crop, 1] of the image, the ratio log-uniform in [3/4, 4/3]; after
    ten crops that do not fit, the largest central one of an allowed ratio.

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
