"""Images of more than 8 bits a channel, in each kind of data set."""

from pathlib import Path

import numpy as np
import pytest

from flaxblocks.weights.preprocess import Transforms, resize_and_crop
from tests.deep_images import DEEP, REFUSED, write_deep, write_refused
from tests.train.images import open_
from train import pack
from train.data.folder import SUFFIXES
from train.data.pipeline import held_out_batches, take_unreadable, train_batches
from train.data.source import Dataset

GREY = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
NAMES = [name for name in [*DEEP, *REFUSED] if name.endswith(SUFFIXES)]
READABLE = [name for name in NAMES if name in DEEP]
SMALL = Transforms(resize_size=64, crop_size=(64, 48))


def write_classes(root: Path) -> Path:
    """Two classes of all files, in `train` and in `val`."""
    for part in ("train", "val"):
        for kind in ("a", "b"):
            folder = root / part / kind
            folder.mkdir(parents=True)
            for name in NAMES:
                if name in DEEP:
                    write_deep(folder, name, GREY)
                else:
                    write_refused(folder, name)
    return root


def in_folder(root: Path) -> Dataset:
    return open_(write_classes(root / "images"))


def in_records(root: Path) -> Dataset:
    with pytest.raises(SystemExit) as exit:
        pack.main([str(write_classes(root / "images")), str(root / "packed")])
    assert exit.value.code == 0
    return open_(root / "packed")


def in_hugging_face(root: Path) -> Dataset:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    parts = {}
    for part in ("train", "val"):
        paths = sorted((write_classes(root / part) / part).rglob("*.*"))
        rows = {
            "image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
            "label": [path.parent.name for path in paths],
        }
        parts[part] = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(parts).save_to_disk(root / "saved")
    return open_(f"hf:{root / 'saved'}")


@pytest.mark.parametrize("open_kind", [in_folder, in_records, in_hugging_face])
def test_16_bits_are_scaled_and_an_unknown_range_is_unreadable(tmp_path: Path, open_kind) -> None:
    data = open_kind(tmp_path)
    count = 2 * len(NAMES)
    assert (len(data.train), len(data.held_out)) == (count, count)
    (batch,) = held_out_batches(data.held_out, SMALL, batch_size=count)
    unreadable = take_unreadable(batch)
    assert len(unreadable) == count - 2 * len(READABLE)
    wanted = np.broadcast_to((GREY // 256)[:, 8:56, None], (64, 48, 3))
    for i in range(count):
        if i in unreadable:
            assert batch["weight"][i] == 0
            assert unreadable[i].startswith("its mode '")
            assert unreadable[i].endswith("scale it to 0 to 255 and save it with 8 bits a channel")
        else:
            np.testing.assert_array_equal(batch["image"][i], wanted)


def test_in_training_another_stands_in_and_the_file_is_named_with_the_reason(
    tmp_path: Path,
) -> None:
    data = in_folder(tmp_path)
    count = 2 * len(NAMES)
    (batch,) = train_batches(data.train, SMALL, batch_size=count, seed=0, epochs=1)
    reasons = {data.train.name(i): why for i, why in take_unreadable(batch).items()}
    assert {Path(name).name for name in reasons} == {*NAMES} - {*READABLE}
    for name, why in reasons.items():
        assert why.startswith(f"its mode {REFUSED[Path(name).name]!r} does not say which value")
    means = batch["image"].mean((1, 2, 3))
    np.testing.assert_array_equal(means, resize_and_crop(data.train[0][0], SMALL).mean())
