"""Preprocessing of images for published weights, bit-identical to torchvision and timm, without
torch.

Both libraries resize with Pillow, crop the centre, divide by 255 and normalise in float32; they
differ in how they round the size after resizing. `Transforms` holds the settings of either, and
`preprocess` repeats their arithmetic operation by operation, so that predictions can differ only
because of the network.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import DTypeLike

if TYPE_CHECKING:
    from PIL import Image

    ImageSource: TypeAlias = Image.Image | str | os.PathLike[str]
else:  # Pillow is imported when the first image is read, so runtime type checkers see `object`
    ImageSource: TypeAlias = object

__all__ = [
    "ImageSource",
    "Transforms",
    "preprocess",
    "preprocess_batch",
    "resize_and_crop",
    "to_rgb",
]

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
_CROP_MODES = ("center", "squash", "border")
_BITS_PER_SAMPLE = 258  # a TIFF tag


@dataclass(frozen=True)
class Transforms:
    """Settings of an evaluation transform of torchvision or timm.

    Attributes:
        resize_size: Size after resizing, in pixels. An int is the length of the shorter side, with
            the other side rounded down (torchvision's preset, and timm's for square inputs). A pair
            (height, width) is used according to `crop_mode`.
        crop_size: (height, width) of the result, cropped from the centre; a smaller image is
            padded.
        interpolation: Pillow's filter: nearest, bilinear, bicubic, box, hamming or lanczos, always
            antialiased.
        mean: Means of the channels R, G, B, on a scale of 0 to 1.
        std: Standard deviations of the channels on the same scale, above 0.
        crop_mode: `center`: keep the aspect ratio and cover the pair `resize_size`. `squash`:
            resize to exactly that pair. `border`: keep the aspect ratio, fit into the pair, and pad
            with the mean colour (in the other modes, padding is 0).

    Raises: ValueError if a field breaks the rules above.
    Source: torchvision `transforms._presets.ImageClassification`; timm `transforms_imagenet_eval`,
        where `resize_size` is floor(size / crop_pct).
    """

    resize_size: int | tuple[int, int] = 256
    crop_size: tuple[int, int] = (224, 224)
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        """Check every field."""
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(
                _rule("interpolation", self.interpolation, f"be one of {_INTERPOLATIONS}")
            )
        if self.crop_mode not in _CROP_MODES:
            raise ValueError(_rule("crop_mode", self.crop_mode, f"be one of {_CROP_MODES}"))
        if not _is_pair_of_pixels(self.crop_size):
            raise ValueError(
                _rule("crop_size", self.crop_size, "be (height, width), both positive ints")
            )
        one_side = self.crop_mode == "center" and _is_pixels(self.resize_size)
        if not (one_side or _is_pair_of_pixels(self.resize_size)):
            allowed = "(height, width), both positive ints"
            if self.crop_mode == "center":
                allowed = f"a positive int or {allowed}"
            rule = f"be {allowed}, with `crop_mode` {self.crop_mode!r}"
            raise ValueError(_rule("resize_size", self.resize_size, rule))
        if not (len(self.mean) == 3 and all(math.isfinite(value) for value in self.mean)):
            raise ValueError(_rule("mean", self.mean, "be three finite numbers"))
        if not (len(self.std) == 3 and all(0 < value < math.inf for value in self.std)):
            raise ValueError(_rule("std", self.std, "be three positive numbers"))


def preprocess(
    image: ImageSource, transforms: Transforms, dtype: DTypeLike = np.float32
) -> Float[np.ndarray, "H W 3"]:
    """Resize, crop the centre, scale to [0, 1] and normalise one image.

    Images of any Pillow mode are first converted by `image.convert("RGB")`, as in the reference
    training scripts, which drops an alpha channel. Only the first frame of an animation is used.
    EXIF orientation is not applied, because torchvision and timm do not apply it either: rotate
    such a photograph with `PIL.ImageOps.exif_transpose` first.

    There is one difference from the scripts. They clip 16-bit greyscale values above 255, which
    gives a white image, and truncate floats in [0, 1], which gives a black one. Here 16-bit
    greyscale (modes such as `I;16`, and `I` from a PGM file) is reduced to its high byte, so that 0
    gives 0 and 65535 gives 255, as Pillow does for 16-bit colour; a 12-bit TIFF file is reduced to
    its highest eight bits. Other images in the modes `I` and `F` are rejected, because they do not
    define which value is white: scale them to 0 to 255 and save them with 8 bits per channel.

    Args:
        image: A Pillow image (not modified) or the path of an image file.
        transforms: The settings, for instance `find_weights(...).transforms`.
        dtype: Floating dtype of the result. The arithmetic is always in float32, as in PyTorch, and
            the result is cast.

    Returns: `(H, W, 3)` with (H, W) = `transforms.crop_size`, bit-identical to the result of
        torchvision or timm except for the order of axes.
    Raises: ValueError that names the file if it is missing, truncated, not an image, in a mode that
        does not define white, or a decompression bomb.
    """
    dtype = np.dtype(dtype)
    if dtype.kind in "biucOSUmM":
        raise ValueError(_rule("dtype", dtype.name, "be a floating type"))
    scaled = resize_and_crop(image, transforms).astype(np.float32) / np.float32(255)
    mean = np.asarray(transforms.mean, np.float32)
    std = np.asarray(transforms.std, np.float32)
    return ((scaled - mean) / std).astype(dtype, copy=False)


def resize_and_crop(image: ImageSource, transforms: Transforms) -> UInt8[np.ndarray, "H W 3"]:
    """The part of `preprocess` before scaling and normalising, which gives pixels of 0 to 255.

    Raises: ValueError as `preprocess`.
    """
    resized = _resize(_open_rgb(image), transforms, _describe(image))
    fill = (0, 0, 0)
    if transforms.crop_mode == "border":
        red, green, blue = transforms.mean
        fill = (round(255 * red), round(255 * green), round(255 * blue))
    return _center_crop(np.asarray(resized), transforms.crop_size, fill)


def preprocess_batch(
    images: Iterable[ImageSource], transforms: Transforms, dtype: DTypeLike = np.float32
) -> Float[np.ndarray, "N H W 3"]:
    """`preprocess` each of `images` and stack the results.

    Args:
        images: At least one Pillow image or path; sizes and modes may differ.
        transforms: The settings for all of them.
        dtype: Floating type of the result.

    Returns: `(N, H, W, 3)`.
    Raises: ValueError if `images` is empty or a single path, or as in `preprocess`.
    """
    if isinstance(images, str | os.PathLike):
        raise ValueError(_rule("images", images, "be a list of images, not a single path"))
    arrays = [preprocess(image, transforms, dtype) for image in images]
    if not arrays:
        raise ValueError(_rule("images", [], "hold at least one image"))
    return np.stack(arrays)


def _rule(argument: str, value: Any, rule: str) -> str:
    return f"`{argument}` (={value!r}) must {rule}"


def _is_pixels(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_pair_of_pixels(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(_is_pixels(side) for side in value)


def _describe(image: Any) -> str:
    """The file's name if there is one, else the type of the image."""
    name = image if isinstance(image, str | os.PathLike) else getattr(image, "filename", "")
    return os.fspath(name) if name else f"{type(image).__name__}"


def _open_rgb(image: Any) -> Image.Image:
    """Read all of `image` and convert it to RGB, without modifying a given Pillow image."""
    from PIL import Image

    try:
        if isinstance(image, str | os.PathLike):
            with Image.open(image) as opened:
                return to_rgb(opened)
        if isinstance(image, Image.Image):
            return to_rgb(image)
    except Exception as error:  # a damaged file can raise anything inside a decoder
        raise ValueError(f"image {_describe(image)!r} cannot be read: {_reason(error)}") from error
    raise ValueError(
        _rule("image", type(image).__name__, "be a Pillow image or the path of an image file")
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a Pillow image to RGB as described in `preprocess`, without modifying it.

    Raises: ValueError for a mode that does not define white.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _high_byte(image).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its mode {image.mode!r} does not say which value is white; scale it to 0 to 255 and "
            "save it with 8 bits a channel"
        )
    if isinstance(image.info.get("transparency"), bytes):
        # A palette with an alpha value per colour, about whose loss in RGB Pillow would warn.
        image = image.copy()
        del image.info["transparency"]
    return image.convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """Reduce 16-bit greyscale, or that of a TIFF file's bit depth, to its highest eight bits."""
    from PIL import Image

    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
    return Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it is not an image of a kind that Pillow knows"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def _resize(image: Image.Image, transforms: Transforms, name: str) -> Image.Image:
    from PIL import Image

    if 0 in image.size:
        raise ValueError(f"image {name!r} has no pixels: its width and height are {image.size}")
    height, width = _resized_size(image.height, image.width, transforms)
    # A sliver, such as 1x40000, passes Pillow's check for bombs and becomes huge only here.
    limit = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)
    if min(height, width) == 0 or height * width > limit:
        raise ValueError(
            f"image {name!r} is too long and narrow: its width and height {image.size} "
            f"would be resized to {(width, height)}"
        )
    return image.resize((width, height), Image.Resampling[transforms.interpolation.upper()])


def _resized_size(height: int, width: int, transforms: Transforms) -> tuple[int, int]:
    """The (height, width) after resizing, rounded as in each library."""
    size = transforms.resize_size
    if isinstance(size, int):
        long_side = int(size * max(height, width) / min(height, width))
        return (long_side, size) if height >= width else (size, long_side)
    if transforms.crop_mode == "squash":
        return size
    ratios = (height / size[0], width / size[1])
    ratio = max(ratios) if transforms.crop_mode == "border" else min(ratios)
    return round(height / ratio), round(width / ratio)


def _center_crop(
    pixels: np.ndarray, size: tuple[int, int], fill: tuple[int, int, int]
) -> np.ndarray:
    """Pad to at least `size`, with an odd pixel after the image, then crop the centre.

    Offsets are rounded half to even, as in both libraries.
    """
    height, width, _ = pixels.shape
    missing = (max(size[0] - height, 0), max(size[1] - width, 0))
    if any(missing):
        canvas = np.empty((height + missing[0], width + missing[1], 3), pixels.dtype)
        canvas[:] = fill
        top, left = missing[0] // 2, missing[1] // 2
        canvas[top : top + height, left : left + width] = pixels
        pixels, (height, width, _) = canvas, canvas.shape
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return pixels[top : top + size[0], left : left + size[1]]
