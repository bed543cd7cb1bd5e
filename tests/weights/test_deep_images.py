"""Images of more than 8 bits a channel are neither white nor black: scaled, or refused by mode."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flaxblocks.weights.preprocess import Transforms, preprocess, resize_and_crop, to_rgb
from tests.deep_images import (
    DEEP,
    REFUSED,
    write_colour_png,
    write_deep,
    write_refused,
    write_tiff_12,
)

EVERY_VALUE = np.arange(65536, dtype=np.uint16).reshape(256, 256)
SMALL = Transforms(resize_size=32, crop_size=(30, 28))


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    return np.asarray(rgb)


def in_three_channels(grey: np.ndarray) -> np.ndarray:
    return np.broadcast_to(grey[..., None], (*grey.shape, 3))


@pytest.mark.parametrize("name", DEEP)
def test_grey_of_16_bits_has_its_high_byte(tmp_path: Path, name: str) -> None:
    pixels = read(write_deep(tmp_path, name, EVERY_VALUE))
    np.testing.assert_array_equal(pixels, in_three_channels(EVERY_VALUE // 256))
    assert (pixels[0, 0, 0], pixels[-1, -1, 0]) == (0, 255)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_an_image_in_memory_likewise_and_it_is_left_as_it_was(mode: str) -> None:
    order = {"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
    image = Image.frombytes(mode, (256, 256), EVERY_VALUE.astype(order).tobytes())
    before = image.tobytes()
    pixels = np.asarray(to_rgb(image))
    np.testing.assert_array_equal(pixels, in_three_channels(EVERY_VALUE // 256))
    assert (image.mode, image.tobytes()) == (mode, before)


def test_grey_of_12_bits_is_scaled_by_its_own_range(tmp_path: Path) -> None:
    grey = np.arange(4096).reshape(64, 64)
    write_tiff_12(tmp_path / "grey.tif", grey)
    np.testing.assert_array_equal(read(tmp_path / "grey.tif"), in_three_channels(grey // 16))


@pytest.mark.parametrize("name", DEEP)
def test_grey_and_colour_of_16_bits_are_read_alike(tmp_path: Path, name: str) -> None:
    """Pillow reads colour of 16 bits itself, so torchvision and timm see what it makes of it."""
    write_colour_png(tmp_path / "colour.png", in_three_channels(EVERY_VALUE))
    grey = write_deep(tmp_path, name, EVERY_VALUE)
    np.testing.assert_array_equal(read(grey), read(tmp_path / "colour.png"))


@pytest.mark.parametrize("name", DEEP)
def test_a_photograph_widened_to_16_bits_is_the_photograph(tmp_path: Path, name: str) -> None:
    narrow = np.random.default_rng(0).integers(0, 256, (61, 83), np.uint8)
    expected = preprocess(Image.fromarray(narrow), SMALL)
    deep = write_deep(tmp_path, name, narrow * np.uint16(257))
    np.testing.assert_array_equal(preprocess(deep, SMALL), expected, strict=True)


@pytest.mark.parametrize("name", REFUSED)
def test_values_without_a_known_range_are_refused_by_mode(tmp_path: Path, name: str) -> None:
    path = write_refused(tmp_path, name)
    with pytest.raises(ValueError) as caught:
        preprocess(path, SMALL)
    message = f"image {str(path)!r} cannot be read: its mode {REFUSED[name]!r} does not say which"
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_an_image_in_memory_is_refused_too_and_the_way_out_is_said(mode: str) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (61, 83), np.uint8)
    image = Image.fromarray(grey).convert(mode)
    with pytest.raises(ValueError, match=rf"its mode '{mode}' .* save it with 8 bits a channel$"):
        resize_and_crop(image, SMALL)
    with_8_bits = Image.fromarray(np.asarray(image).astype(np.uint8))
    np.testing.assert_array_equal(
        resize_and_crop(with_8_bits, SMALL), resize_and_crop(Image.fromarray(grey), SMALL)
    )
