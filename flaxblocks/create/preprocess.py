"""An image as the weights of a model want it: `fb.preprocess("photo.jpg", model)`."""

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
    """Resize, crop and normalise an image as it was done for the model's weights.

    Published weights bring their own settings. Those of a file are taken to be those of the default
    weights of the library whose layout it is in; a model of nobody's has torchvision's of old: 256
    pixels, of which the inner 224.

    Args:
        image: the path of an image file, a Pillow image, or its pixels as an array `(H, W, 3)`, or
            `(H, W)` of grey, of 0 to 255 in uint8.
        model: one for RGB.
        dtype: floating type of the result.

    Returns: `(1, H, W, 3)`.
    Raises: ValueError for an image that cannot be read, or a model that is none for RGB.
    """
    if isinstance(image, nnx.Module):
        kind = type(image).__name__
        raise ValueError(f"`image` (a {kind}) must be an image: the model comes after it")
    check_module("model", model)
    channels = getattr(model, "in_channels", RGB)
    if channels != RGB:
        raise ValueError(f"`model` (in_channels={channels}) must be one for images in RGB")
    origin = origin_of(model)
    alike = origin.weights or (default_weights(origin.row, origin.layout) if origin.row else None)
    transforms = images.Transforms() if alike is None else alike.transforms
    return images.preprocess(_picture(image), transforms, dtype)[None]


def _picture(image: Any) -> Any:
    """Pixels as a Pillow image; anything else as it is."""
    if not isinstance(image, np.ndarray):
        return image
    from PIL import Image

    is_grey, is_rgb = image.ndim == 2, image.ndim == 3 and image.shape[-1] == RGB
    if image.dtype != np.uint8 or not (is_grey or is_rgb):
        raise ValueError(
            f"`image` (shape {image.shape}, dtype {image.dtype}) must be (H, W, 3) or (H, W), "
            "pixels of 0 to 255 in uint8"
        )
    return Image.fromarray(image)
