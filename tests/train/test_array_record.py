"""ArrayRecord files: what is packed, read, and wrong with them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.train.images import colours_are_right, open_
from train import pack
from train.data.array_record import decode_example, encode_example


def test_an_example_is_tensorflows() -> None:
    """The bytes are written by hand, after tensorflow/core/example/example.proto."""
    data = bytes.fromhex("0a1f0a0e0a056c6162656c12051a030a01030a0d0a05696d61676512040a020a00")
    assert decode_example(data) == {"label": 3, "image": b""}
    features = {"image": b"\x00\xff", "label": 300, "file_name": b"a.png"}
    assert decode_example(encode_example(features)) == features


def test_array_records_are_what_was_packed(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "packed"
    with pytest.raises(SystemExit) as exit:
        pack.main([str(folder), str(out), "--shards", "2", "--held-out", "0.2"])
    assert exit.value.code == 0
    size = sum(path.stat().st_size for path in out.iterdir())
    told = f"{out}: 24 training images and 6 held-out images of 3 classes, {size:,} bytes; "
    assert capsys.readouterr().out.startswith(told)
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
    with pytest.raises(ValueError, match=r"has no label\.labels\.txt: --num-classes must be given"):
        open_(out)
    data = open_(out, num_classes=2)
    message = "has the label 2, but there are 2 classes"
    with pytest.raises(ValueError, match=message):
        [data.train[i] for i in range(len(data.train))]
    (val,) = out.glob("val*")
    val.write_bytes(b"something else")
    with pytest.raises(
        ValueError, match=r"val-00000-of-00001\.array_record is not an ArrayRecord file"
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


def test_a_folder_to_pack_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as exit:
        pack.main([str(tmp_path / "photos"), str(tmp_path / "packed")])
    assert exit.value.code == 2
    assert capsys.readouterr().err == f"pack: {tmp_path / 'photos'}: no such folder\n"


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
