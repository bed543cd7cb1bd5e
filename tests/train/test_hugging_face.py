"""Hugging Face datasets: their columns, their split, and what is wrong with them."""

from pathlib import Path
from typing import Any

import pytest

from tests.train.images import COLOURS, open_
from train.data.open import open_data
from train.data.source import Unreadable
from train.settings.config import Config


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


def test_without_training_all_of_a_hugging_face_dataset_is_held_out(on_disk: Path) -> None:
    assert len(open_data(Config(data=f"hf:{on_disk}"), training=False).held_out) == 30


def test_each_class_of_a_hugging_face_dataset_is_on_both_sides(tmp_path: Path) -> None:
    """Of 95, 4, 1 and 2 images, and two without a label."""
    import datasets

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


def test_what_is_wrong_with_a_hugging_face_dataset_is_one_sentence(
    tmp_path: Path, on_disk: Path
) -> None:
    import datasets

    with pytest.raises(ValueError, match=r"^--num-classes 4 must be 3"):
        open_(f"hf:{on_disk}", num_classes=4)
    texts = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"]})})
    texts.save_to_disk(tmp_path / "texts")
    with pytest.raises(ValueError, match=r"columns .* no Image"):
        open_(f"hf:{tmp_path / 'texts'}")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"^--data hf:.*nothing cannot be loaded: "):
        open_(f"hf:{tmp_path / 'nothing'}")
