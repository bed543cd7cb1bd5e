"""What suits, where a setting was left open."""

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest

from train.data.digits import open_digits
from train.settings.config import Config
from train.settings.defaults import filled, resolved

PHOTOS: Any = SimpleNamespace(classes=["a", "b"], train=range(1000), suits={})


def test_digits_have_settings_of_their_own() -> None:
    config = resolved(Config(), open_digits())
    assert (config.batch_size, config.lr, config.min_crop, config.flip) == (16, 0.01, 0.8, 0.0)
    assert config.num_classes == 10
    assert (config.weight_decay, config.eps) == (0.05, 1e-8)
    # Their learning rate is for the default optimiser.
    assert resolved(Config(optimizer="sgd"), open_digits()).lr == 0.1


@pytest.mark.parametrize(
    ("optimizer", "lr", "eps", "decay", "clip"),
    [
        ("sgd", 0.1, None, 1e-4, None),
        ("rmsprop", 0.01, 1e-8, 1e-4, None),
        ("rmsprop-tf", 0.01, 1e-10, 1e-4, None),
        ("adamw", 0.001, 1e-8, 0.05, None),
        ("lamb", 0.002, 1e-6, 0.05, 1.0),
    ],
)
def test_each_optimiser_has_its_own(
    optimizer: str, lr: float, eps: float | None, decay: float, clip: float | None
) -> None:
    config = resolved(Config(optimizer=optimizer), PHOTOS)
    assert (config.lr, config.eps, config.weight_decay) == (lr, eps, decay)
    assert config.clip_grad_norm == clip
    assert (config.batch_size, config.min_crop, config.flip) == (128, 0.08, 0.5)


def test_what_was_given_stays() -> None:
    given = Config(
        batch_size=7, lr=3.0, eps=1e-2, weight_decay=0.0, min_crop=1.0, flip=0.25,
        clip_grad_norm=9.0, num_classes=2,
    )  # fmt: skip
    for data in (open_digits(), PHOTOS):
        config = resolved(given, data)
        kept = [field.name for field in fields(given) if getattr(given, field.name) is not None]
        assert all(getattr(config, name) == getattr(given, name) for name in kept)


def test_a_small_folder_is_one_batch() -> None:
    few = SimpleNamespace(**{**vars(PHOTOS), "train": range(23)})
    assert resolved(Config(), few).batch_size == 23  # type: ignore[arg-type]
    none = SimpleNamespace(**{**vars(PHOTOS), "train": range(0)})  # to be evaluated
    assert resolved(Config(), none).batch_size == 128  # type: ignore[arg-type]


def test_an_open_setting_is_no_number() -> None:
    assert filled(0.0) == 0.0
    with pytest.raises(ValueError, match="a setting is None"):
        filled(replace(Config()).lr)
