"""An image file -> the array that published weights were trained for, bit for bit, without torch.

torchvision and timm both resize with Pillow, crop the centre, divide by 255 and normalise in
float32; they differ in how the size after resizing is rounded. `Transforms` holds the settings of
either, and `preprocess` repeats their arithmetic operation by operation, so that a prediction can
only differ in the network.
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
        resize_size: Pixels. An int: the shorter side becomes this long and the other side is
            rounded down (torchvision's preset, and timm's for square inputs). A pair (height,
            width): what `crop_mode` says.
        crop_size: (height, width) of the result, cut from the centre; where the resized image is
            smaller it is padded.
        interpolation: Pillow's filter: nearest, bilinear, bicubic, box, hamming or lanczos, always
            antialiased.
        mean: Means of the channels R, G, B, on the scale [0, 1].
        std: Their standard deviations on that scale, above 0.
        crop_mode: `center`: keep the proportions and cover the pair `resize_size`. `squash`: resize
            to exactly that pair. `border`: keep the proportions, fit into the pair, and pad with
            the mean colour (elsewhere the padding is 0).

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

    Every Pillow mode is first turned into RGB by `image.convert("RGB")`, as the reference training
    scripts do: an alpha channel is dropped. Of an animation the first frame is taken. EXIF
    orientation is not applied, because torchvision and timm do not apply it: turn such a photograph
    with `PIL.ImageOps.exif_transpose` first.

    In one thing the scripts are not followed: of grey in 16 bits they clip all above 255, which
    leaves white, and of floats from 0 to 1 the fraction is cut off, which leaves black. Here grey
    in 16 bits (the modes `I;16` and its kin, and `I` of a PGM file) has its high byte taken, 0 to 0
    and 65535 to 255, which is how Pillow reads colour in 16 bits; a TIFF file's 12 bits have their
    highest eight. Other images of the modes `I` and `F` do not say which value is white, and are
    refused: scale them to 0 to 255, and save them with 8 bits a channel.

    Args:
        image: A Pillow image (left unchanged) or the path of an image file.
        transforms: The settings, for instance `find_weights(...).transforms`.
        dtype: Floating type of the result. The arithmetic is float32 in any case, as in PyTorch,
            and then cast.

    Returns: `(H, W, 3)` with (H, W) = `transforms.crop_size`, equal to the last bit to what
        torchvision or timm give, in NHWC's order of axes.
    Raises: ValueError in one sentence naming the file, if it is missing, truncated, no image, of a
        mode without a known white, or a decompression bomb.
    """
    dtype = np.dtype(dtype)
    if dtype.kind in "biucOSUmM":
        raise ValueError(_rule("dtype", dtype.name, "be a floating type"))
    scaled = resize_and_crop(image, transforms).astype(np.float32) / np.float32(255)
    mean = np.asarray(transforms.mean, np.float32)
    std = np.asarray(transforms.std, np.float32)
    return ((scaled - mean) / std).astype(dtype, copy=False)


def resize_and_crop(image: ImageSource, transforms: Transforms) -> UInt8[np.ndarray, "H W 3"]:
    """`preprocess` up to the pixels: 0 to 255, not yet scaled and normalised.

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
    """The file's name where there is one, else what kind of image it is."""
    name = image if isinstance(image, str | os.PathLike) else getattr(image, "filename", "")
    return os.fspath(name) if name else f"{type(image).__name__}"


def _open_rgb(image: Any) -> Image.Image:
    """Read `image` wholly and convert it to RGB, leaving a given Pillow image as it was."""
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
    """A Pillow image in RGB, as `preprocess` says; the given one is left unchanged.

    Raises: ValueError for a mode without a known white.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _high_byte(image).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its mode {image.mode!r} does not say which value is white; scale it to 0 to 255 and "
            "save it with 8 bits a channel"
        )
    if isinstance(image.info.get("transparency"), bytes):
        # A palette with an alpha for each colour: RGB drops it, about which Pillow would warn.
        image = image.copy()
        del image.info["transparency"]
    return image.convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """Grey in 16 bits, or as many as a TIFF file's tag says, in its highest eight."""
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
    # A sliver, such as 1x40000, passes Pillow's bomb check and is blown up only here.
    limit = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)
    if min(height, width) == 0 or height * width > limit:
        raise ValueError(
            f"image {name!r} is too long and narrow: its width and height {image.size} "
            f"would be resized to {(width, height)}"
        )
    return image.resize((width, height), Image.Resampling[transforms.interpolation.upper()])


def _resized_size(height: int, width: int, transforms: Transforms) -> tuple[int, int]:
    """The (height, width) after resizing, each library's rounding kept."""
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
    """Pad to at least `size`, an odd pixel after the image, then cut the centre.

    Offsets are rounded half to even, as both libraries do.
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
