"""What a config says reaches the step, the augmentation and the data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flaxblocks.weights.preprocess import Transforms
from train.data.augment import Augmentation
from train.data.open import open_data
from train.network.build import build_model, settings_of, transforms_for
from train.network.step import StepSettings
from train.run.plan import Plan, make_plan
from train.settings.config import Config

pytestmark = pytest.mark.usefixtures("tiny")

CONFIG = Config(image_size=32, batch_size=256, epochs=2, warmup_epochs=0.5)


def plan_of(**settings: Any) -> Plan:
    return make_plan(replace(CONFIG, **settings))


def test_the_settings_of_the_step_are_the_configs() -> None:
    chosen: dict[str, Any] = {
        "label_smoothing": 0.1,
        "random_erasing": 0.2,
        "mixup": 0.3,
        "cutmix": 0.4,
        "grad_accum": 2,
        "ema": 0.5,
        "ema_every": 3,
    }
    plan = plan_of(**chosen)
    assert plan.settings == StepSettings(
        num_classes=10,
        mean=plan.transforms.mean,
        std=plan.transforms.std,
        **chosen,
        warmup_steps=2,  # half an epoch of five steps
    )


def test_the_augmentation_is_the_configs() -> None:
    assert plan_of(min_crop=0.3, flip=0.25, augment="trivial", train_size=24).augmentation == (
        Augmentation((24, 24), "bilinear", min_crop=0.3, flip=0.25, trivial=True)
    )
    assert plan_of(min_crop=0.3, flip=0.25).augmentation == (
        Augmentation((32, 32), "bilinear", min_crop=0.3, flip=0.25, trivial=False)
    )
    plan = plan_of(augment="none")
    assert plan.augmentation == plan.transforms


def test_the_seed_is_of_the_data_and_of_each_step() -> None:
    one, again, other = plan_of(), plan_of(), plan_of(seed=1)
    labels = [next(plan.batches(0))["label"] for plan in (one, again, other)]
    assert (labels[0] == labels[1]).all()
    assert (labels[0] != labels[2]).any()
    keys = [np.asarray(plan.start().key) for plan in (one, again, other)]
    assert (keys[0] == keys[1]).all()
    assert (keys[0] != keys[2]).any()


def test_a_batch_that_accumulation_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^--batch-size 256 must be divisible by 3"):
        plan_of(grad_accum=3)


def test_the_model_is_the_configs() -> None:
    config = Config(width_mult="0.25")
    model, other = build_model(config, 10), build_model(replace(config, seed=1), 10)
    half = build_model(replace(config, dtype="bfloat16"), 10)
    for built in (model, half):
        built.eval()
    images = jnp.zeros((1, 32, 32, 3))
    kernels = [m.head.kernel[...] for m in (model, other, half)]
    assert (kernels[0] != kernels[1]).any()
    assert (kernels[0] == kernels[2]).all()
    assert jax.eval_shape(model, images).dtype == jnp.float32
    assert jax.eval_shape(half, images).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "transforms",
    [
        Transforms(320, (300, 300), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.25)),
        Transforms((266, 266), (240, 240), "lanczos", crop_mode="squash"),
        Transforms(),
    ],
)
def test_settings_give_the_same_images_whatever_the_data(transforms: Transforms) -> None:
    config = Config(**settings_of(transforms))
    assert transforms_for(config, open_data(Config())) == transforms


def test_one_epoch_is_trained_without_a_word_about_warm_up() -> None:
    plan = plan_of(epochs=1, warmup_epochs=None)
    assert plan.config.warmup_epochs == 0.1
    assert plan_of(epochs=2, warmup_epochs=None).config.warmup_epochs == 1.0


def test_one_class_is_refused(tmp_path: Path) -> None:
    """Such as a data set of `val` alone."""
    for name in ("a", "b"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / name / "0.png")
    with pytest.raises(ValueError, match=r"has only one class, 'val': it must have two or more"):
        plan_of(data=str(tmp_path))


def test_what_is_trained_on_what_is_one_sentence() -> None:
    assert plan_of().sentence() == (
        "mobilenet_v2 with 5,362 parameters on 1 cpu; digits: 1,437 training images, 360 held "
        "out, 10 classes (0, 1, 2, ...)"
    )


def test_images_are_prepared_as_the_weights_say_else_as_the_data_does() -> None:
    data = open_data(Config())
    assert transforms_for(Config(), data) == data.transforms
    published = transforms_for(Config(weights="IMAGENET1K_V2"), data)
    assert (published.resize_size, published.crop_size) == (232, (224, 224))
    assert published.mean == (0.485, 0.456, 0.406)
    scaled = transforms_for(Config(weights="IMAGENET1K_V2", image_size=112), data)
    assert (scaled.resize_size, scaled.crop_size) == (116, (112, 112))
    assert transforms_for(Config(weights="file.pth"), data) == data.transforms
    mine = Config(
        weights="IMAGENET1K_V2",
        interpolation="bicubic",
        crop_mode="squash",
        mean="0.5,0.5,0.5",
        std="0.5,0.5,0.25",
    )
    assert transforms_for(mine, data) == Transforms(
        (232, 232), (224, 224), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.25), "squash"
    )
    cut = transforms_for(Config(image_size=32, resize_size=32), data)
    assert (cut.resize_size, cut.crop_size, cut.crop_mode) == (32, (32, 32), "center")
