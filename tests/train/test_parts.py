"""Which images are for training and which are held out, and what is no image."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.train.images import COLOURS, open_, write_images
from tests.train.test_evaluate import BUNDLED
from train import evaluate, pack
from train.data.source import Unreadable, check_label


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (3, 1), (9, 1), (10, 1), (16, 2)])
def test_of_each_class_at_least_one_is_held_out(tmp_path: Path, count: int, held_out: int) -> None:
    write_images(tmp_path / "red", COLOURS["red"], count)
    data = open_(tmp_path)
    assert (len(data.train), len(data.held_out)) == (count - held_out, held_out)
    most = open_(tmp_path, held_out=0.99)
    assert len(most.train) == 1


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    write_images(tmp_path / "red", COLOURS["red"], 3)
    (tmp_path / "red" / "._0.png").write_bytes(b"of macOS")
    data = open_(tmp_path)
    assert len(data.train) + len(data.held_out) == 3


def test_the_held_out_part_is_val_else_validation_else_test(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "red", COLOURS["red"], 3)
    for count, part in enumerate(("test", "validation", "val"), 1):
        write_images(tmp_path / part / "red", COLOURS["red"], count)
        assert len(open_(tmp_path).held_out) == count


def test_a_label_below_zero_is_none() -> None:
    check_label(0, 2, "image")
    with pytest.raises(Unreadable, match="its label -1 means that it has none"):
        check_label(-1, 2, "image")


def test_array_records_may_lie_in_a_folder_called_train(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "train-val-test"
    with pytest.raises(SystemExit):
        pack.main([str(folder), str(out), "--held-out", "0.2"])
    data = open_(out)
    assert (len(data.train), len(data.held_out)) == (24, 6)


def test_what_is_held_out_when_packing_is_the_seeds_choice(tmp_path: Path, folder: Path) -> None:
    sizes = {}
    for seed in (0, 1):
        out = tmp_path / f"packed{seed}"
        with pytest.raises(SystemExit):
            pack.main([str(folder), str(out), "--held-out", "0.3", "--seed", str(seed)])
        data, original = open_(out), open_(folder, held_out=0.3, seed=seed)
        sizes[seed] = [data.held_out[i][0].width for i in range(9)]
        assert sizes[seed] == [original.held_out[i][0].width for i in range(9)]
    assert sizes[0] != sizes[1]


def test_of_a_hugging_face_dataset_the_seed_chooses_what_is_held_out(on_disk: Path) -> None:
    one, again, other = (open_(f"hf:{on_disk}", held_out=0.2, seed=seed) for seed in (0, 0, 1))
    names = [[d.held_out.name(i).partition("(")[2] for i in range(6)] for d in (one, again, other)]
    assert names[0] == names[1] != names[2]


def test_a_row_without_label_or_image_is_unreadable(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    rows: Any = {"image": [None] * 3, "label": [None, -1, 0]}
    part = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "saved")
    source = open_(f"hf:{tmp_path / 'saved'}").train
    for index, message in enumerate(("has no label", "means that it has none", "has no image")):
        with pytest.raises(Unreadable, match=message):
            source[index]


def test_without_val_evaluation_is_of_all_images(tmp_path: Path) -> None:
    source = open_("digits").held_out
    for i in range(40):
        image, label = source[i]
        (tmp_path / str(label)).mkdir(exist_ok=True)
        image.save(tmp_path / str(label) / f"{i}.png")
    assert len(list(tmp_path.iterdir())) == 10
    result = evaluate.evaluate(replace(BUNDLED, data=str(tmp_path)))
    assert result["images"] == 40


def test_digits_are_36_pixels_wide() -> None:
    assert open_("digits").transforms.crop_size == (36, 36)
