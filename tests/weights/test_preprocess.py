"""Equal to the last bit to the transforms of torchvision and timm, for every size and mode."""

import math
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from flaxblocks.parity.oracle import import_torchvision
from flaxblocks.weights import WeightEntry, list_weights
from flaxblocks.weights.preprocess import Transforms, preprocess, preprocess_batch

torchvision = import_torchvision()

SIZES = [  # (height, width)
    (1, 1),
    (1, 7),
    (3, 2),
    (40, 3000),
    (3000, 40),
    (224, 224),
    (223, 225),
    (232, 300),
    (256, 256),
    (257, 256),
    (333, 501),
    (500, 375),
]
INTERPOLATIONS = ["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"]
MODES += ["P with one transparent colour", "P with an alpha palette"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(height * 10_007 + width).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def photographs() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(image) for image in load_sample_images().images]


def by_torchvision(image: Image.Image, **settings: Any) -> np.ndarray:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    mode = InterpolationMode(settings.pop("interpolation", "bilinear"))
    return ImageClassification(interpolation=mode, **settings)(image).permute(1, 2, 0).numpy()


def by_timm(image: Image.Image, **config: Any) -> np.ndarray:
    from timm.data.transforms_factory import create_transform

    transform: Any = create_transform(**config)
    return transform(image).permute(1, 2, 0).numpy()


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs, strict=True)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("resize", [256, 232])
def test_torchvision_presets(size: tuple[int, int], resize: int) -> None:
    image = noise(*size)
    ours = preprocess(image, Transforms(resize_size=resize))
    assert_same(ours, by_torchvision(image, crop_size=224, resize_size=resize))


@pytest.mark.parametrize("size", [(60, 61), (61, 95), (200, 61), (224, 224)], ids=str)
@pytest.mark.parametrize(("resize", "crop"), [(61, 96), (61, 97), (96, 61), (97, 61), (80, 80)])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_torchvision_crop_and_padding(
    size: tuple[int, int], resize: int, crop: int, interpolation: str
) -> None:
    """A crop larger than the image on one side or both, odd and even remainders, every filter."""
    image = noise(*size)
    settings: dict[str, Any] = {"resize_size": resize, "interpolation": interpolation}
    ours = preprocess(image, Transforms(crop_size=(crop, crop), **settings))
    assert_same(ours, by_torchvision(image, crop_size=crop, **settings))


@pytest.mark.parametrize("entry", list_weights(), ids=lambda entry: entry.name)
def test_published_weights_on_photographs(entry: WeightEntry) -> None:
    """The settings in the data give what the entry's own library does, on real images."""
    for image in [*photographs(), noise(97, 41)]:
        if entry.source == "torchvision":
            preset = torchvision.models.get_model_weights(entry.model)[entry.tag].transforms()
            theirs = preset(image).permute(1, 2, 0).numpy()
        else:
            import timm
            from timm.data.config import resolve_data_config

            cfg = timm.get_pretrained_cfg(entry.name)
            assert cfg is not None
            theirs = by_timm(image, **resolve_data_config(pretrained_cfg=cfg.to_dict()))
        assert_same(preprocess(image, entry.transforms), theirs)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0])
def test_timm_center(size: tuple[int, int], crop_pct: float) -> None:
    image = noise(*size)
    resize = math.floor(224 / crop_pct)
    ours = preprocess(image, Transforms(resize_size=resize, interpolation="bicubic"))
    config = {"interpolation": "bicubic", "crop_mode": "center", "crop_pct": crop_pct}
    assert_same(ours, by_timm(image, input_size=(3, 224, 224), mean=MEAN, std=STD, **config))


@pytest.mark.parametrize("size", [(97, 41), (41, 97), (50, 50), (300, 480), (30, 200)], ids=str)
@pytest.mark.parametrize("crop", [(64, 64), (64, 97), (97, 63)], ids=str)
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_timm_crop_modes(
    size: tuple[int, int], crop: tuple[int, int], crop_mode: str, crop_pct: float
) -> None:
    image = noise(*size)
    height, width = (math.floor(side / crop_pct) for side in crop)
    one_side = crop_mode == "center" and height == width
    transforms = Transforms(
        resize_size=height if one_side else (height, width),
        crop_size=crop,
        interpolation="bicubic",
        mean=(0.5, 0.4, 0.301),
        std=(0.5, 0.25, 0.201),
        crop_mode=crop_mode,
    )
    config = {"interpolation": "bicubic", "crop_mode": crop_mode, "crop_pct": crop_pct}
    theirs = by_timm(
        image, input_size=(3, *crop), mean=transforms.mean, std=transforms.std, **config
    )
    assert_same(preprocess(image, transforms), theirs)


def test_every_pixel_value() -> None:
    """All 256 values in all three channels, so that no rounding of the arithmetic is missed."""
    pixels = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), (16, 16, 3))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    ours = preprocess(image, Transforms(resize_size=16, crop_size=(16, 16)))
    assert_same(ours, by_torchvision(image, crop_size=16, resize_size=16))
    config = {"input_size": (3, 16, 16), "mean": MEAN, "std": STD, "crop_pct": 1.0}
    assert_same(ours, by_timm(image, **config))


def in_mode(mode: str) -> Image.Image:
    image = noise(61, 83)
    if mode == "I;16":
        return Image.fromarray(np.arange(61 * 83, dtype=np.uint16).reshape(61, 83))
    if mode == "RGBA":
        image.putalpha(noise(61, 83).getchannel("G"))
    if mode == "P with one transparent colour":
        image = image.quantize(64)
        image.info["transparency"] = 5
    if mode == "P with an alpha palette":
        image = image.quantize(64)
        image.info["transparency"] = bytes(range(64))
    return image if " " in mode else image.convert(mode)


@pytest.mark.parametrize("mode", MODES)
def test_modes_become_rgb_as_in_the_reference_scripts(mode: str) -> None:
    image = in_mode(mode)
    before = (image.mode, dict(image.info), image.tobytes())
    ours = preprocess(image, Transforms(resize_size=64, crop_size=(56, 56)))
    assert (image.mode, dict(image.info), image.tobytes()) == before
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)
        rgb = image.convert("RGB")
    assert_same(ours, by_torchvision(rgb, crop_size=56, resize_size=64))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P with an alpha palette", "RGBA", "I;16"])
def test_a_path_gives_what_the_image_gives(tmp_path: Path, mode: str) -> None:
    transforms = Transforms(resize_size=64, crop_size=(56, 56))
    image = in_mode(mode)
    path = tmp_path / "image.png"
    image.save(path)
    expected = preprocess(image, transforms)
    assert_same(preprocess(path, transforms), expected)
    assert_same(preprocess(str(path), transforms), expected)


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    noise(80, 120).save(path, exif=exif)
    transforms = Transforms(resize_size=64, crop_size=(56, 56))
    with Image.open(path) as image:
        theirs = by_torchvision(image.convert("RGB"), crop_size=56, resize_size=64)
    assert_same(preprocess(path, transforms), theirs)


def test_a_batch_is_a_stack(tmp_path: Path) -> None:
    noise(40, 50).save(tmp_path / "a.png")
    images = [tmp_path / "a.png", noise(50, 40).convert("L")]
    transforms = Transforms(resize_size=32, crop_size=(30, 28))
    batch = preprocess_batch(images, transforms)
    assert batch.shape == (2, 30, 28, 3)
    assert_same(batch[0], preprocess(noise(40, 50), transforms))
    assert_same(batch[1], preprocess(images[1], transforms))
    with pytest.raises(ValueError, match=r"`images` \(=\[\]\) must hold at least one"):
        preprocess_batch([], transforms)
    with pytest.raises(ValueError, match=r"`images` \(='a\.png'\) must be a list"):
        preprocess_batch("a.png", transforms)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_another_dtype_is_the_float32_result_cast(dtype: Any) -> None:
    ours = preprocess(noise(300, 260), Transforms(), dtype)
    assert ours.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(ours, preprocess(noise(300, 260), Transforms()).astype(dtype))
    assert preprocess_batch([noise(9, 9)], Transforms(), dtype).dtype == np.dtype(dtype)


def test_an_integer_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`dtype` \(='uint8'\) must be a floating type"):
        preprocess(noise(9, 9), Transforms(), np.uint8)


def damaged(folder: Path, kind: str) -> Path:
    path = folder / "damaged"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("this is no image\n")
    elif kind == "empty":
        path.touch()
    elif kind != "missing":
        noise(200, 300).save(path, format=kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "No such file"),
        ("folder", "Is a directory"),
        ("text", "not an image of a kind that Pillow knows"),
        ("empty", "not an image of a kind that Pillow knows"),
        ("PNG", "truncated"),
        ("JPEG", "truncated"),
        ("BMP", "truncated"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, kind: str, reason: str) -> None:
    path = damaged(tmp_path, kind)
    with pytest.raises(ValueError, match=reason) as caught:
        preprocess(path, Transforms())
    assert str(caught.value).startswith(f"image {str(path)!r} cannot be read: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [15, 50])  # above Pillow's warning, above its error
def test_a_decompression_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    path = tmp_path / "bomb.png"
    noise(10, side).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"bomb\.png' cannot be read: .*decompression bomb"):
        preprocess(path, Transforms())


def test_a_sliver_that_would_be_blown_up_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with pytest.raises(ValueError, match=r"\(1000, 1\) would be resized to \(256000, 256\)"):
        preprocess(Image.new("RGB", (1000, 1)), Transforms())
    border = Transforms(resize_size=(64, 64), crop_size=(64, 64), crop_mode="border")
    with pytest.raises(ValueError, match=r"\(1000, 1\) would be resized to \(64, 0\)"):
        preprocess(Image.new("RGB", (1000, 1)), border)


def test_an_image_without_pixels_and_a_thing_that_is_none() -> None:
    with pytest.raises(ValueError, match="image 'Image' has no pixels"):
        preprocess(Image.new("RGB", (0, 5)), Transforms())
    array: Any = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"`image` \(='ndarray'\) must be a Pillow image or"):
        preprocess(array, Transforms())


@pytest.mark.parametrize(
    "settings",
    [
        {"interpolation": "cubic"},
        {"crop_mode": "centre"},
        {"crop_size": 224},
        {"crop_size": (224, 0)},
        {"resize_size": 0},
        {"resize_size": 25.6},
        {"resize_size": 256, "crop_mode": "squash"},
        {"mean": (0.5, 0.5)},
        {"mean": (0.5, 0.5, math.nan)},
        {"std": (0.5, 0.5, 0.0)},
    ],
    ids=str,
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError) as caught:
        Transforms(**settings)
    assert str(caught.value).startswith(f"`{name}` (={value!r}) must be ")
