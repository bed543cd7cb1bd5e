"""The data sets: digits, folders, ArrayRecord, Hugging Face; and what is wrong with them."""

import errno
import io
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from flaxblocks.demo import digits
from flaxblocks.preprocess import resize_and_crop
from train import pack
from train.build import transforms_for
from train.config import Config
from train.data.array_record import decode_example, encode_example
from train.data.open import open_data
from train.data.source import Dataset, Unreadable, open_image

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def write_images(folder: Path, colour: tuple[int, int, int], count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (20 + i, 16), colour).save(folder / f"{i}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images a class, in one folder for each."""
    for name, colour in COLOURS.items():
        write_images(tmp_path / "images" / name, colour, 10)
    return tmp_path / "images"


def open_(path: str | Path, **settings) -> Dataset:
    return open_data(replace(Config(), data=str(path), **settings))


def colours_are_right(data: Dataset) -> bool:
    sources = (data.train, data.held_out)
    examples = [source[i] for source in sources for i in range(len(source))]
    return all(
        image.getpixel((0, 0)) == COLOURS[data.classes[label]] and image.mode == "RGB"
        for image, label in examples
    )


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


def test_without_training_all_is_held_out(folder: Path, on_disk: Path) -> None:
    config = Config(data=str(folder))
    assert len(open_data(config, training=False).held_out) == 30
    assert len(open_data(replace(config, held_out=0.2), training=False).held_out) == 6
    assert len(open_data(Config(data=f"hf:{on_disk}"), training=False).held_out) == 30
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
    with pytest.raises(ValueError, match=r"nowhere: no such folder, nor is it `digits`"):
        open_(tmp_path / "nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"the class .*empty is empty: it holds no file ending in"):
        open_(folder)
    (folder / "empty").rmdir()
    with pytest.raises(ValueError, match=r"^--num-classes 4 must be 3, the classes of .*images$"):
        open_(folder, num_classes=4)
    write_images(folder / "single", (1, 2, 3), 1)
    with pytest.raises(ValueError, match=r"single has one image: without a folder 'val'"):
        open_(folder)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="has no folder of a class"):
        open_(tmp_path / "none")


def test_what_is_wrong_with_train_and_val_is_one_sentence(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "red", COLOURS["red"], 3)
    with pytest.raises(ValueError, match="has the folder 'train' and none of"):
        open_(tmp_path)
    write_images(tmp_path / "val" / "blue", COLOURS["blue"], 3)
    with pytest.raises(ValueError, match=r"has the class 'blue', which .*train has not"):
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


def test_an_example_is_tensorflows() -> None:
    """The bytes are written by hand, after tensorflow/core/example/example.proto."""
    data = bytes.fromhex("0a1f0a0e0a056c6162656c12051a030a01030a0d0a05696d61676512040a020a00")
    assert decode_example(data) == {"label": 3, "image": b""}
    features = {"image": b"\x00\xff", "label": 300, "file_name": b"a.png"}
    assert decode_example(encode_example(features)) == features


def test_array_records_are_what_was_packed(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "packed"
    with pytest.raises(SystemExit) as exit:
        pack.main([str(folder), str(out), "--shards", "2", "--held-out", "0.2"])
    assert exit.value.code == 0
    assert len(list(out.glob("train-*-of-00002.array_record"))) == 2
    data, original = open_(out), open_(folder, held_out=0.2)
    assert list(data.classes) == list(original.classes)
    assert (len(data.train), len(data.held_out)) == (24, 6)
    assert colours_are_right(data)
    stored = {np.asarray(data.train[i][0]).tobytes() for i in range(24)}
    assert stored == {np.asarray(original.train[i][0]).tobytes() for i in range(24)}
    # Record i lies in shard i % 2.
    names = [data.train.name(i).removeprefix(str(out)) for i in (0, 11, 12, 23)]
    assert names == [
        "/train-00000-of-00002.array_record, record 0",
        "/train-00000-of-00002.array_record, record 11",
        "/train-00001-of-00002.array_record, record 0",
        "/train-00001-of-00002.array_record, record 11",
    ]


def test_what_is_wrong_with_array_records_is_one_sentence(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "packed"
    for _ in range(2):
        with pytest.raises(SystemExit) as exit:
            pack.main([str(folder), str(out)])
    assert exit.value.code == 2  # it will not write over the first
    (out / "label.labels.txt").unlink()
    with pytest.raises(ValueError, match=r"has no label\.labels\.txt: --num-classes must tell"):
        open_(out)
    data = open_(out, num_classes=2)
    message = "has the label 2, and there are 2 classes"
    with pytest.raises(ValueError, match=message):
        [data.train[i] for i in range(len(data.train))]
    (val,) = out.glob("val*")
    val.write_bytes(b"something else")
    with pytest.raises(
        ValueError, match=r"val-00000-of-00001\.array_record is no ArrayRecord file"
    ):
        open_(out, num_classes=3)
    val.unlink()
    with pytest.raises(ValueError, match="has no ArrayRecord file with 'val' in its name"):
        open_(out, num_classes=3)


@pytest.mark.parametrize(
    ("names", "train", "held_out"),
    [
        (("train-00000-of-00002", "train-00001-of-00002", "val-00000-of-00001"), 2, 1),
        (("retrieval-train", "retrieval-test"), 1, 1),
        (("cats-test-train", "cats-test-val"), 1, 1),
        (("my_train_data", "my_val_data", "my_evaluation_data"), 1, 1),
        (("a-train", "a-validation", "a-test"), 1, 1),
    ],
)
def test_the_part_is_a_word_of_the_name(
    tmp_path: Path, folder: Path, names: tuple[str, ...], train: int, held_out: int
) -> None:
    """And not any letters of it: `retrieval` has `val` in it."""
    record = pack_one(folder, tmp_path)
    for name in names:
        shutil.copy(record, tmp_path / f"{name}.array_record")
    data = open_(tmp_path, num_classes=3)
    count = len(data.train) // train
    assert (len(data.train), len(data.held_out)) == (train * count, held_out * count)
    assert data.held_out.name(0) == f"{tmp_path}/{names[train]}.array_record, record 0"


def test_a_name_of_two_parts_is_one_sentence(tmp_path: Path, folder: Path) -> None:
    shutil.copy(pack_one(folder, tmp_path), tmp_path / "train-or-val-00000-of-00001.array_record")
    with pytest.raises(ValueError, match=r"has 'train' and 'val' in its name: which is it\?$"):
        open_(tmp_path, num_classes=3)


def test_tensorflow_datasets_names_are_known(tmp_path: Path, folder: Path) -> None:
    record = pack_one(folder, tmp_path)
    for split in ("train", "validation"):
        shutil.copy(record, tmp_path / f"beans-{split}.array_record-00000-of-00001")
    data = open_(tmp_path, num_classes=3)
    assert len(data.train) == len(data.held_out) > 0


def pack_one(folder: Path, beside: Path) -> Path:
    """A file of records."""
    with pytest.raises(SystemExit):
        pack.main([str(folder), str(beside / "one")])
    return beside / "one" / "train-00000-of-00001.array_record"


def test_names_need_not_be_utf_8(tmp_path: Path, folder: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    (folder / "red").rename(folder / odd)
    (folder / odd / "0.png").rename(folder / odd / f"{odd}.png")
    with pytest.raises(SystemExit) as exit:
        pack.main([str(folder), str(tmp_path / "packed")])
    assert exit.value.code == 0
    data = open_(tmp_path / "packed")
    assert list(data.classes) == list(open_(folder).classes) == ["blue", odd, "green"]


def test_packing_that_fails_leaves_nothing(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    torn = folder / "red" / "0.png"
    torn.unlink()
    torn.symlink_to("nowhere")
    out = tmp_path / "packed"
    out.mkdir()
    with pytest.raises(SystemExit) as exit:
        pack.main([str(folder), str(out)])
    assert exit.value.code == 2
    assert "red/0.png: No such file" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "packed"]
    torn.unlink()
    with pytest.raises(SystemExit) as exit:
        pack.main([str(folder), str(out)])
    assert exit.value.code == 0


@pytest.fixture
def on_disk(tmp_path: Path) -> Path:
    """A dataset with one split, saved by `datasets`, its second image damaged."""

    def encoded(i: int) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (8, 8), list(COLOURS.values())[i % 3]).save(file, "png")
        return file.getvalue() if i != 1 else b"damaged"

    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list(COLOURS))}
    )
    rows = {
        "picture": [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(30)],
        "kind": [i % 3 for i in range(30)],
    }
    dataset = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": dataset}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_hugging_face_dataset_by_its_features(on_disk: Path) -> None:
    data = open_(f"hf:{on_disk}", held_out=0.2)
    assert list(data.classes) == list(COLOURS)
    assert (len(data.train), len(data.held_out)) == (24, 6)
    unreadable = 0
    for source in (data.train, data.held_out):
        for i in range(len(source)):
            try:
                image, label = source[i]
            except Unreadable:
                unreadable += 1
                assert source.name(i).endswith("(1.png)")
            else:
                assert image.getpixel((0, 0)) == COLOURS[data.classes[label]]
    assert unreadable == 1


def test_each_class_of_a_hugging_face_dataset_is_on_both_sides(tmp_path: Path) -> None:
    """Of 95, 4, 1 and 2 images, and two without a label."""
    kinds = [0] * 95 + [1] * 4 + [2] + [3] * 2 + [-1, None]
    labels = datasets.ClassLabel(names=["a", "b", "c", "d"])
    features = datasets.Features({"image": datasets.Image(), "label": labels})
    rows = {"image": [None] * len(kinds), "label": kinds}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")

    def counts(seed: int) -> tuple[list[int], list[int]]:
        data = open_(f"hf:{tmp_path / 'saved'}", seed=seed)
        held_out: Any = data.held_out
        chosen = held_out.rows["label"][:]
        assert len(data.train) + len(chosen) == len(kinds)
        return [chosen.count(label) for label in range(4)], list(chosen)

    assert all(counts(seed)[0] == [10, 1, 0, 1] for seed in range(4))
    assert counts(1) == counts(1)


Change = Callable[[Path], object]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda root: root.rename(root.with_name("elsewhere")), True),
        (lambda root: (root / "red").rename(root / "rot"), False),
        (lambda root: (root / "red" / "3.png").rename(root / "blue" / "30.png"), False),
        (lambda root: shutil.copy(root / "red" / "3.png", root / "red" / "30.png"), False),
        (lambda root: (root / "red" / "3.png").rename(root / "red" / "30.png"), False),
    ],
    ids=["moved", "class renamed", "image of another class", "one more", "image renamed"],
)
def test_data_is_told_by_its_digest(folder: Path, change: Change, same: bool) -> None:
    digest = open_(folder).digest()
    assert len(digest) == 16
    change(folder)
    (root,) = folder.parent.iterdir()
    assert (open_(root).digest() == digest) == same


def test_the_digest_of_records_is_by_files_counts_and_classes(tmp_path: Path, folder: Path) -> None:
    def packed(name: str, *options: str) -> str:
        with pytest.raises(SystemExit):
            pack.main([str(folder), str(tmp_path / name), *options])
        return open_(tmp_path / name).digest()

    assert packed("a") == packed("b")
    assert packed("a") != packed("c", "--shards", "2")
    assert packed("a") != packed("d", "--held-out", "0.2")
    names = tmp_path / "a" / "label.labels.txt"
    names.write_text(names.read_text().replace("red", "rot"))
    assert open_(tmp_path / "a").digest() != open_(tmp_path / "b").digest()


def test_the_digest_of_a_hugging_face_dataset(tmp_path: Path, on_disk: Path) -> None:
    digest = open_(f"hf:{on_disk}").digest()
    assert digest != open_(f"hf:{on_disk}", held_out=0.5).digest()
    moved = on_disk.rename(tmp_path / "moved")
    assert open_(f"hf:{moved}").digest() == digest
    whole: Any = datasets.load_from_disk(moved)["train"]
    fewer = whole.select(range(29))
    fewer.save_to_disk(tmp_path / "fewer")
    assert open_(f"hf:{tmp_path / 'fewer'}").digest() != digest


def test_the_digits_are_always_the_same() -> None:
    assert open_("digits").digest() == open_("digits", seed=1).digest()


def test_what_is_wrong_with_a_hugging_face_dataset_is_one_sentence(
    tmp_path: Path, on_disk: Path
) -> None:
    with pytest.raises(ValueError, match=r"^--num-classes 4 must be 3"):
        open_(f"hf:{on_disk}", num_classes=4)
    texts = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"]})})
    texts.save_to_disk(tmp_path / "texts")
    with pytest.raises(ValueError, match=r"columns .* no Image"):
        open_(f"hf:{tmp_path / 'texts'}")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"^--data hf:.*nothing cannot be had: "):
        open_(f"hf:{tmp_path / 'nothing'}")
