"""Digits, folders of images, reading an image; and what is wrong with them."""

import errno
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from flaxblocks.demo import digits
from flaxblocks.weights.preprocess import resize_and_crop
from tests.train.images import COLOURS, colours_are_right, open_, write_images
from train.data.open import open_data
from train.data.source import Unreadable, open_image
from train.network.build import transforms_for
from train.settings.config import Config


def test_the_held_out_digits_are_the_demos() -> None:
    data = open_("digits")
    assert (len(data.train), len(data.held_out), len(data.classes)) == (1437, 360, 10)
    transforms = transforms_for(Config(image_size=32), data)  # as the demo has it
    demo = digits.load_digits()
    truth = digits.digits_to_images(demo.images)
    for i in range(0, 360, 30):
        image, label = data.held_out[i]
        assert label == demo.labels[i]
        pixels = resize_and_crop(image, transforms).astype(np.float32)
        normalised = (pixels / 255 - digits.MEAN) / digits.STD
        # Half a step of 255, on the normalised scale.
        np.testing.assert_allclose(normalised, truth[i], atol=0.51 / 255 / digits.STD)


def test_a_folder_of_classes_is_split_for_each_class(folder: Path) -> None:
    data = open_(folder, held_out=0.2)
    assert list(data.classes) == ["blue", "green", "red"]
    assert (len(data.train), len(data.held_out)) == (24, 6)
    assert colours_are_right(data)
    names = {source.name(i) for source in (data.train, data.held_out) for i in range(len(source))}
    assert len(names) == 30
    again, other = open_(folder, held_out=0.2), open_(folder, held_out=0.2, seed=1)
    held_out = [[d.held_out.name(i) for i in range(6)] for d in (data, again, other)]
    assert held_out[0] == held_out[1] != held_out[2]
    # Always the same ones: a run that goes on must not be judged by what it learnt from.
    chosen = [Path(name).relative_to(folder).as_posix() for name in held_out[0]]
    assert chosen == [
        "blue/4.png",
        "blue/6.png",
        "green/1.png",
        "green/9.png",
        "red/2.png",
        "red/8.png",
    ]


def test_without_training_all_is_held_out(folder: Path) -> None:
    config = Config(data=str(folder))
    assert len(open_data(config, training=False).held_out) == 30
    assert len(open_data(replace(config, held_out=0.2), training=False).held_out) == 6
    with pytest.raises(ValueError, match=r"has no training images: --held-out is 1$"):
        open_(folder, held_out=1.0)


def test_a_folder_with_train_and_val(tmp_path: Path) -> None:
    for name, colour in COLOURS.items():
        write_images(tmp_path / "train" / name, colour, 3)
    write_images(tmp_path / "val" / "red", COLOURS["red"], 2)
    write_images(tmp_path / "train" / "red" / "deeper", COLOURS["red"], 1)
    (tmp_path / "train" / "red" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".hidden").mkdir()
    data = open_(tmp_path)
    assert (len(data.train), len(data.held_out)) == (10, 2)
    # A class that `val` lacks shifts no label.
    assert data.held_out[0][1] == 2
    assert colours_are_right(data)


def test_images_of_every_mode_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "CMYK", "I;16", "1"):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new(mode, (9, 7)).save(tmp_path / "a" / f"{mode.replace(';', '')}.tiff")
    data = open_(tmp_path)
    assert {data.train[i][0].mode for i in range(len(data.train))} == {"RGB"}


def test_what_is_wrong_with_a_folder_is_one_sentence(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no such folder, and it is not `digits`"):
        open_(tmp_path / "nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"the class .*empty is empty: it holds no file ending in"):
        open_(folder)
    (folder / "empty").rmdir()
    rule = r"^--num-classes 4 must be 3, the number of classes of .*images$"
    with pytest.raises(ValueError, match=rule):
        open_(folder, num_classes=4)
    write_images(folder / "single", (1, 2, 3), 1)
    with pytest.raises(ValueError, match=r"single has one image: without a folder 'val'"):
        open_(folder)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="has no folder of a class"):
        open_(tmp_path / "none")


def test_what_is_wrong_with_train_and_val_is_one_sentence(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "red", COLOURS["red"], 3)
    with pytest.raises(ValueError, match="has the folder 'train' but none of"):
        open_(tmp_path)
    write_images(tmp_path / "val" / "blue", COLOURS["blue"], 3)
    with pytest.raises(ValueError, match=r"has the class 'blue', which .*train lacks"):
        open_(tmp_path)


def test_a_damaged_file_is_unreadable(folder: Path) -> None:
    data = open_(folder)
    Path(data.train.name(4)).write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    with pytest.raises(Unreadable, match="cannot identify image file"):
        data.train[4]
    Path(data.train.name(4)).unlink()
    with pytest.raises(Unreadable, match="No such file"):
        data.train[4]


class Flaky:
    """In the place of `Image.open`: it fails as often as there are errors."""

    def __init__(self, *errors: Exception):
        self.errors = list(errors)
        self.open = Image.open

    def __call__(self, file: Path) -> Image.Image:
        if self.errors:
            raise self.errors.pop(0)
        return self.open(file)


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that were asked for, none of which takes place."""
    waits: list[float] = []
    monkeypatch.setattr("train.data.source.time.sleep", waits.append)
    return waits


def test_a_disk_that_fails_is_asked_again(
    folder: Path, waited: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "red" / "0.png"
    stale = [OSError(errno.ESTALE, "Stale file handle"), OSError(errno.EIO, "Input/output error")]
    monkeypatch.setattr(Image, "open", Flaky(*stale))
    assert open_image(path).getpixel((0, 0)) == COLOURS["red"]
    assert waited == [0.1, 1.0]
    monkeypatch.setattr(Image, "open", Flaky(*stale, stale[0]))
    with pytest.raises(Unreadable, match=r"^Stale file handle$"):
        open_image(path)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError("image file is truncated"),
        UnidentifiedImageError("cannot identify image file"),
        SyntaxError("broken PNG file"),
    ],
)
def test_what_will_not_pass_is_not_waited_for(
    folder: Path, waited: list[float], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(Image, "open", Flaky(error))
    with pytest.raises(Unreadable):
        open_image(folder / "red" / "0.png")
    assert waited == []


def test_a_palette_with_transparency_is_read_without_a_word(tmp_path: Path) -> None:
    """As `preprocess` reads it: the colour stays, the alpha goes."""
    image = Image.new("P", (8, 8), 3)
    image.putpalette([value for i in range(256) for value in (i, 2 * i % 256, 0)])
    image.save(tmp_path / "p.png", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(tmp_path / "p.png").getpixel((0, 0)) == (3, 6, 0)


def test_a_photograph_is_not_turned(tmp_path: Path) -> None:
    """torchvision's ImageFolder does not heed EXIF's orientation, nor does `preprocess`."""
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (8, 4)
