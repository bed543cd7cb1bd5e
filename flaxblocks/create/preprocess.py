"""Preprocessing an image for the weights of a model: `fb.preprocess("photo.jpg", model)`."""

from typing import Any

import numpy as np
from flax import nnx
from numpy.typing import DTypeLike

from flaxblocks.create.origin import origin_of
from flaxblocks.nn.arguments import check_module
from flaxblocks.weights import preprocess as images
from flaxblocks.weights.resolve import default_weights

__all__ = ["preprocess"]

RGB = 3


def preprocess(image: Any, model: nnx.Module, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Resize, crop and normalise an image as for the evaluation of the model's weights.

    Published weights have settings of their own. For weights from a file, the settings of the
    default weights of the library with its layout are used; for a model without published weights,
    torchvision's usual ones: resize to 256 pixels and crop the central 224.

    Args:
        image: the path of an image file, a Pillow image, or pixels from 0 to 255 as a uint8 array
            `(H, W, 3)`, or `(H, W)` if grey.
        model: a model for RGB images.
        dtype: floating-point dtype of the result.

    Returns: `(1, H, W, 3)`.
    Raises: ValueError for an image that cannot be read, or a model that is not for RGB images.
    """
    if isinstance(image, nnx.Module):
        kind = type(image).__name__
        raise ValueError(f"`image` (a {kind}) must be an image: the model comes after it")
    check_module("model", model)
    channels = getattr(model, "in_channels", RGB)
    if channels != RGB:
        raise ValueError(f"`model` (in_channels={channels}) must be a model for RGB images")
    origin = origin_of(model)
    alike = origin.weights or (default_weights(origin.row, origin.layout) if origin.row else None)
    transforms = images.Transforms() if alike is None else alike.transforms
    return images.preprocess(_picture(image), transforms, dtype)[None]


def _picture(image: Any) -> Any:
    """An array of pixels as a Pillow image; anything else unchanged."""
    if not isinstance(image, np.ndarray):
        return image
    from PIL import Image

    is_grey, is_rgb = image.ndim == 2, image.ndim == 3 and image.shape[-1] == RGB
    if image.dtype != np.uint8 or not (is_grey or is_rgb):
        raise ValueError(
            f"`image` (shape {image.shape}, dtype {image.dtype}) must be (H, W, 3) or (H, W), "
            "pixels from 0 to 255 in uint8"
        )
    return Image.fromarray(image)
