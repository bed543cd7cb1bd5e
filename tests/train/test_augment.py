"""Augmentation beside torchvision's: the same arithmetic, and random numbers of the same law."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms import InterpolationMode, RandomResizedCrop, TrivialAugmentWide
from torchvision.transforms.autoaugment import _apply_op

from train.data.augment import Augmentation, random_crop_box
from train.data.trivial import OPERATIONS, Operation, trivial_augment

TORCHVISION = {
    name: "".join(word.capitalize() for word in name.split("_")) for name in OPERATIONS
} | {"autocontrast": "AutoContrast"}


@pytest.fixture(scope="module")
def photograph() -> Any:
    return Image.fromarray(load_sample_image("china.jpg")).resize((96, 64))


def test_the_operations_are_torchvisions() -> None:
    space = TrivialAugmentWide()._augmentation_space(31)
    assert [TORCHVISION[name] for name in OPERATIONS] == list(space)
    for operation, (strengths, signed) in zip(OPERATIONS.values(), space.values(), strict=True):
        assert operation.signed == signed
        np.testing.assert_allclose(operation.strengths, strengths.reshape(-1), rtol=1e-6)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_torchvisions_to_the_bit(name: str, photograph: Any) -> None:
    operation = OPERATIONS[name]
    for strength in operation.strengths[::5]:
        for sign in (1, -1) if operation.signed else (1,):
            ours = operation.apply(photograph, sign * strength)
            theirs = _apply_op(
                photograph, TORCHVISION[name], sign * strength, InterpolationMode.BILINEAR, None
            )
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_trivial_augment_uses_each_operation_strength_and_sign() -> None:
    seen = set()

    class Recorder:
        integers = np.random.default_rng(0).integers
        random = np.random.default_rng(1).random

    image = Image.new("RGB", (4, 4), (10, 20, 30))
    recorded = {
        name: type(op)(
            lambda image, strength, name=name: seen.add((name, round(strength, 6))) or image,
            op.strengths,
            op.signed,
        )
        for name, op in OPERATIONS.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.data.trivial.OPERATIONS", recorded)
        for _ in range(20_000):
            trivial_augment(image, Recorder())  # type: ignore[arg-type]
    signed = [name for name, op in OPERATIONS.items() if op.signed]
    # 31 strengths each, of both signs but for 0; posterize has 7 that differ.
    assert sum(name in signed for name, _ in seen) == 61 * len(signed)
    assert {name for name, _ in seen} == set(OPERATIONS)


COUNT = 20_000  # crops, to see a tenth more or less of area


@pytest.mark.parametrize(
    ("size", "min_crop"), [((70, 64), 0.08), ((96, 64), 0.08), ((40, 200), 0.9), ((300, 8), 0.5)]
)
def test_crops_have_torchvisions_distribution(size: tuple[int, int], min_crop: float) -> None:
    width, height = size
    rng = np.random.default_rng(0)
    ours = np.asarray([random_crop_box(width, height, min_crop, rng) for _ in range(COUNT)])
    torch.manual_seed(0)
    blank = torch.empty(3, height, width)
    theirs = np.asarray(
        [RandomResizedCrop.get_params(blank, [min_crop, 1], [3 / 4, 4 / 3]) for _ in range(COUNT)]
    )
    left, top, right, bottom = ours.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= width).all()
    assert (bottom <= height).all()
    expected = theirs[:, [1, 0, 3, 2]]  # left, top, width, height
    actual = np.stack([left, top, right - left, bottom - top], axis=1)
    error = 4 * np.maximum(expected.std(0), 0.5) / np.sqrt(COUNT / 2)
    assert (np.abs(actual.mean(0) - expected.mean(0)) < error).all()
    assert (np.abs(actual.std(0) - expected.std(0)) < error).all()


def test_a_crop_is_resized_as_torchvision_resizes_it(photograph: Any) -> None:
    augment = Augmentation((32, 48), "bilinear", min_crop=0.2, flip=0.0, trivial=False)
    ours = augment(photograph, np.random.default_rng(3))
    left, top, right, bottom = random_crop_box(96, 64, 0.2, np.random.default_rng(3))
    crop = RandomResizedCrop((32, 48))
    crop.get_params = lambda *_: (top, left, bottom - top, right - left)  # type: ignore[method-assign]
    np.testing.assert_array_equal(ours, np.asarray(crop(photograph)))


def test_a_flip_mirrors(photograph: Any) -> None:
    plain = Augmentation((32, 32), "bicubic", min_crop=0.5, flip=0.0, trivial=False)
    flipped = Augmentation((32, 32), "bicubic", min_crop=0.5, flip=1.0, trivial=False)
    one, other = (augment(photograph, np.random.default_rng(0)) for augment in (plain, flipped))
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one[:, ::-1], other)


def test_a_flip_is_done_with_its_probability() -> None:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(1, 64).repeat(64, 0))
    rng = np.random.default_rng(0)
    augment = Augmentation((8, 8), "bilinear", min_crop=1.0, flip=0.25, trivial=False)
    pixels = [augment(image.convert("RGB"), rng)[0, :, 0].astype(int) for _ in range(1000)]
    assert 0.2 < np.mean([row[0] > row[-1] for row in pixels]) < 0.3


def test_trivial_augment_draws_signs_by_even_odds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    one = Operation(lambda image, strength: seen.append(strength) or image, (1.0,), signed=True)
    monkeypatch.setattr("train.data.trivial.OPERATIONS", {"one": one})
    rng = np.random.default_rng(0)
    for _ in range(2000):
        trivial_augment(Image.new("RGB", (1, 1)), rng)
    assert set(seen) == {1.0, -1.0}
    assert abs(np.mean(seen)) < 0.1
