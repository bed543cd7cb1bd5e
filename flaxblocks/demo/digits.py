"""The demo's data: 360 digits that a small MobileNetV2 was not trained on, and PyTorch's logits.

The scans are 8 x 8 with values 0..16, from the UCI data set "Optical Recognition of Handwritten
Digits" (Alpaydin and Kaynak 1998, https://archive.ics.uci.edu/dataset/80), as included in
scikit-learn. The network is torchvision's MobileNetV2 at width 0.25. Both files were written by
`tools/make_demo_checkpoint.py`.
"""

import atexit
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from PIL import Image

__all__ = [
    "MAX_VALUE",
    "MEAN",
    "SIZE",
    "STD",
    "Digits",
    "checkpoint_path",
    "digits_to_images",
    "load_digits",
    "split_digits",
]

CHECKPOINT = "mobilenet_v2_digits.pth"
DATA = "digits.npz"

MAX_VALUE = 16.0  # largest value of a scan
SIZE = 32  # side of the network's input in pixels
HELD_OUT = 360
SEED = 0  # seed of the choice of held-out digits
# Mean and standard deviation of the 1,437 training digits, resized and scaled to [0, 1].
MEAN = 0.305
STD = 0.324


@dataclass(frozen=True, eq=False)
class Digits:
    """The digits held out from training, and PyTorch's logits for them in evaluation mode.

    Attributes:
        images: `(360, 8, 8)`, the raw scans, 0..16.
        labels: `(360,)`, 0..9.
        logits: `(360, 10)`, computed by PyTorch in float32, all images in one batch.
        logits64: `(360, 10)`, the same network in float64 on the same float32 images.
        torch_version: The PyTorch release that computed both.
    """

    images: UInt8[np.ndarray, "N 8 8"]
    labels: UInt8[np.ndarray, " N"]
    logits: Float32[np.ndarray, "N 10"]
    logits64: Float64[np.ndarray, "N 10"]
    torch_version: str


def load_digits() -> Digits:
    """The digits and logits that come with the package."""
    with files("flaxblocks.demo").joinpath(DATA).open("rb") as file, np.load(file) as data:
        return Digits(
            images=data["images"],
            labels=data["labels"],
            logits=data["logits"],
            logits64=data["logits64"],
            torch_version=str(data["torch_version"]),
        )


def split_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training scans, held-out scans `(N, 8, 8)`, training labels, held-out labels; all uint8.

    The held-out digits are those of `load_digits`. Needs scikit-learn, which has the whole data
    set.
    """
    import sklearn.datasets
    from sklearn.model_selection import train_test_split

    scans, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = scans.reshape(-1, 8, 8).astype(np.uint8)
    parts = train_test_split(
        images, labels.astype(np.uint8), test_size=HELD_OUT, stratify=labels, random_state=SEED
    )
    train_images, held_out_images, train_labels, held_out_labels = map(np.asarray, parts)
    return train_images, held_out_images, train_labels, held_out_labels


@cache
def checkpoint_path() -> Path:
    """The file of the trained network, a plain PyTorch `state_dict` of torchvision's MobileNetV2.

    If the package is inside a zip archive, it is a temporary copy, deleted when Python exits.
    """
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(as_file(files("flaxblocks.demo").joinpath(CHECKPOINT)))


def digits_to_images(images: UInt8[np.ndarray, "N 8 8"]) -> Float32[np.ndarray, "N 32 32 3"]:
    """Convert raw scans to the network's input.

    Args:
        images: `(N, 8, 8)`, uint8, ink from 0 to 16.

    Returns: `(N, 32, 32, 3)`, float32: resized bilinearly, scaled to [0, 1], `(x - MEAN) / STD`,
        the same in each of the three channels.

    Raises: ValueError if the scans have another shape or type, or a value above 16.
    """
    if images.ndim != 3 or images.shape[1:] != (8, 8) or images.dtype != np.uint8:
        raise ValueError(
            f"`images` (={images.dtype} of shape {images.shape}) must be uint8 of shape (N, 8, 8)"
        )
    if images.max(initial=0) > MAX_VALUE:
        raise ValueError(f"`images` (maximum {images.max()}) must have values from 0 to 16")
    resized = np.empty((len(images), SIZE, SIZE), np.float32)
    for i, image in enumerate(images.astype(np.float32)):
        large = Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        resized[i] = np.asarray(large)
    normalised = (resized / np.float32(MAX_VALUE) - np.float32(MEAN)) / np.float32(STD)
    return np.repeat(normalised[..., None], 3, axis=-1)
