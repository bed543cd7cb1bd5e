"""TrivialAugment: one operation of uniformly random kind and strength per image.

Source: Müller and Hutter 2021, https://arxiv.org/abs/2103.10158, table 1, the wide search space;
each operation computes the same as in torchvision's `TrivialAugmentWide` on a Pillow image.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

__all__ = ["OPERATIONS", "Operation", "trivial_augment"]

STRENGTHS = 31
FILTER = Image.Resampling.BILINEAR


@dataclass(frozen=True)
class Operation:
    """An operation, its possible strengths, and whether their sign is random."""

    apply: Callable[[Image.Image, float], Image.Image]
    strengths: Sequence[float] = (0.0,)
    signed: bool = False


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """The image whose pixel (x, y) is that of `image` at (ax + by + c, dx + ey + f), or black
    outside.
    """
    return image.transform(image.size, Image.Transform.AFFINE, matrix, FILTER)


def _sheared(image: Image.Image, x: float = 0.0, y: float = 0.0) -> Image.Image:
    """Shear along either axis; the strength is converted to degrees and back, to round as in
    torchvision.
    """
    angle_x, angle_y = (math.radians(math.degrees(math.atan(s))) for s in (x, y))
    slope_y = math.sin(angle_y) / math.cos(angle_y)
    return _affine(image, (1, math.tan(angle_x), 0, slope_y, 1, 0))


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]):
    return lambda image, strength: kind(image).enhance(1 + strength)


def _up_to(most: float) -> list[float]:
    return np.linspace(0, most, STRENGTHS).tolist()


OPERATIONS: Mapping[str, Operation] = {
    "identity": Operation(lambda image, _: image),
    "shear_x": Operation(lambda image, s: _sheared(image, x=s), _up_to(0.99), True),
    "shear_y": Operation(lambda image, s: _sheared(image, y=s), _up_to(0.99), True),
    "translate_x": Operation(
        lambda image, s: _affine(image, (1, 0, -int(s), 0, 1, 0)), _up_to(32), True
    ),
    "translate_y": Operation(
        lambda image, s: _affine(image, (1, 0, 0, 0, 1, -int(s))), _up_to(32), True
    ),
    "rotate": Operation(lambda image, s: image.rotate(s, FILTER), _up_to(135), True),
    "brightness": Operation(_enhance(ImageEnhance.Brightness), _up_to(0.99), True),
    "color": Operation(_enhance(ImageEnhance.Color), _up_to(0.99), True),
    "contrast": Operation(_enhance(ImageEnhance.Contrast), _up_to(0.99), True),
    "sharpness": Operation(_enhance(ImageEnhance.Sharpness), _up_to(0.99), True),
    "posterize": Operation(
        lambda image, bits: ImageOps.posterize(image, int(bits)),
        (8 - np.round(np.arange(STRENGTHS) / ((STRENGTHS - 1) / 6))).tolist(),
    ),
    "solarize": Operation(
        lambda image, threshold: ImageOps.solarize(image, threshold),  # type: ignore[arg-type]
        np.linspace(255, 0, STRENGTHS).tolist(),
    ),
    "autocontrast": Operation(lambda image, _: ImageOps.autocontrast(image)),
    "equalize": Operation(lambda image, _: ImageOps.equalize(image)),
}


def trivial_augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Apply one random operation to an RGB image, with one of 31 strengths and a random sign."""
    operation = list(OPERATIONS.values())[int(rng.integers(len(OPERATIONS)))]
    strength = operation.strengths[int(rng.integers(len(operation.strengths)))]
    if operation.signed and rng.random() < 0.5:
        strength = -strength
    return operation.apply(image, strength)
