"""What tells a data set from another of as many images."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.train.images import open_
from train import pack

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
    import datasets

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
