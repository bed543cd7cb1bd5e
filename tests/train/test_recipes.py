"""The recipes say what their sources say, and the defaults what the help says."""

from dataclasses import fields
from typing import Any

import click
import pytest

from tests.train.test_flags import parsed
from train.settings.config import Config
from train.settings.flags import recipes

PUBLISHED: dict[str, dict[str, Any]] = {
    # torchvision/references/classification/README.md: --model mobilenet_v2 --epochs 300 --lr 0.045
    # --wd 0.00004 --lr-step-size 1 --lr-gamma 0.98, 8 x 32 images.
    "mobilenetv2": {
        "model": "mobilenet_v2", "epochs": 300, "batch_size": 256, "optimizer": "sgd",
        "lr": 0.045, "momentum": 0.9, "weight_decay": 4e-5, "decay_norms": True,
        "schedule": "step", "schedule_every": "epoch", "decay_epochs": 1.0, "gamma": 0.98,
        "warmup_epochs": 0.0,
    },
    # The script's defaults: --lr 0.1 --wd 1e-4 --lr-step-size 30 --lr-gamma 0.1, 90 epochs, 8 x 32.
    "resnet-v1": {
        "model": "resnet50", "epochs": 90, "batch_size": 256, "optimizer": "sgd", "lr": 0.1,
        "momentum": 0.9, "weight_decay": 1e-4, "decay_norms": True, "schedule": "step",
        "schedule_every": "epoch", "decay_epochs": 30.0, "gamma": 0.1, "warmup_epochs": 0.0,
    },
    # --batch-size=128 (x 8) --lr=0.5 --lr-scheduler=cosineannealinglr --lr-warmup-epochs=5
    # --lr-warmup-decay=0.01 --auto-augment=ta_wide --epochs=600 --random-erase=0.1
    # --weight-decay=0.00002 --norm-weight-decay=0.0 --label-smoothing=0.1 --mixup-alpha=0.2
    # --cutmix-alpha=1.0 --train-crop-size=176 --model-ema --val-resize-size=232; ema-steps 32 and
    # decay 0.99998 are the script's.
    "resnet-v2": {
        "model": "resnet50", "epochs": 600, "batch_size": 1024, "optimizer": "sgd", "lr": 0.5,
        "momentum": 0.9, "weight_decay": 2e-5, "decay_norms": False, "schedule": "cosine",
        "schedule_every": "epoch", "warmup_epochs": 5.0, "warmup_start": 0.01,
        "label_smoothing": 0.1, "mixup": 0.2, "cutmix": 1.0, "augment": "trivial",
        "random_erasing": 0.1, "train_size": 176, "resize_size": 232,
        # main.py: alpha = (1 - decay) * world_size * batch_size * ema_steps / epochs
        "ema": pytest.approx(1 - (1 - 0.99998) * 8 * 128 * 32 / 600, abs=1e-7), "ema_every": 32,
    },
    "rexnet": {
        "model": "rexnet_100", "set": ("dropout=0.2",), "epochs": 400, "batch_size": 512,
        "optimizer": "sgd", "nesterov": True, "lr": 0.5, "momentum": 0.9, "weight_decay": 1e-5,
        "schedule": "cosine", "schedule_every": "epoch", "warmup_epochs": 5.0,
        "label_smoothing": 0.1, "augment": "trivial", "random_erasing": 0.2,
    },
    "efficientnet": {
        "model": "efficientnet_b0", "set": ("dropout=0.2", "stochastic_depth=0.2"), "epochs": 450,
        "batch_size": 768, "optimizer": "rmsprop-tf", "lr": 0.048, "momentum": 0.9, "alpha": 0.9,
        "eps": 1e-3, "weight_decay": 1e-5, "schedule": "step", "schedule_every": "epoch",
        "decay_epochs": 2.4, "gamma": 0.97, "warmup_epochs": 5.0,
        "warmup_start": pytest.approx(1e-6 / 0.048, rel=1e-6), "label_smoothing": 0.1,
        "augment": "trivial", "random_erasing": 0.2, "ema": 0.9999,
    },
}  # fmt: skip


def test_every_recipe_is_held_to_its_source() -> None:
    assert sorted(PUBLISHED) == recipes()
    # By the paper 0.256 for 4,096 images; the rate goes with the batch.
    lr, batch = PUBLISHED["efficientnet"]["lr"], PUBLISHED["efficientnet"]["batch_size"]
    assert lr == pytest.approx(0.256 * batch / 4096)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_says_what_its_source_says(name: str) -> None:
    config = parsed("--recipe", name)
    expected = {field.name: field.default for field in fields(Config)} | PUBLISHED[name]
    assert vars(config) == expected


def test_what_nobody_set_is_as_the_help_says() -> None:
    """Defaults that a run's numbers hang on and that its help names or torch has."""
    config = Config()
    assert (config.optimizer, config.schedule, config.schedule_every) == ("adamw", "cosine", "step")
    assert (config.momentum, config.alpha, config.betas) == (0.9, 0.9, "0.9,0.999")
    assert (config.warmup_epochs, config.warmup_start, config.min_lr) == (None, 0.01, 0.0)
    assert (config.decay_epochs, config.gamma, config.grad_accum) == (30.0, 0.1, 1)
    assert (config.label_smoothing, config.mixup, config.cutmix, config.ema) == (0, 0, 0, None)
    assert (config.nesterov, config.decay_norms) == (False, False)


@pytest.mark.parametrize("flag", ["--lr", "--held-out", "--ema", "--gamma", "--decay-epochs"])
def test_what_must_exceed_zero_is_not_zero(flag: str) -> None:
    with pytest.raises(click.BadParameter, match="is not in the range"):
        parsed(flag, "0")
