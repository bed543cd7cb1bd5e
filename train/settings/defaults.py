"""Defaults of settings that are None: those of the data first, then those of the optimiser."""

from dataclasses import fields, replace
from typing import Any, TypeVar

from train.data.source import Dataset
from train.settings.config import Config

__all__ = ["filled", "resolved"]

T = TypeVar("T")

HELD_OUT = 0.1  # fraction of training data without a `val`
ANYWAY = {
    "held_out": HELD_OUT,
    "batch_size": 128,
    "min_crop": 0.08,
    "flip": 0.5,
    "lr": 0.001,
    "weight_decay": 1e-4,
}
BY_OPTIMIZER: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.1},
    "rmsprop": {"lr": 0.01, "eps": 1e-8},
    "rmsprop-tf": {"lr": 0.01, "eps": 1e-10},
    "adamw": {"weight_decay": 0.05, "eps": 1e-8},
    "lamb": {"lr": 0.002, "weight_decay": 0.05, "eps": 1e-6, "clip_grad_norm": 1.0},
}


def resolved(config: Config, data: Dataset) -> Config:
    """`config` with a value for each setting that is None and has a default.

    The learning rate that the data suggests is used with the default optimiser only.
    """
    suits = {**ANYWAY, **BY_OPTIMIZER[config.optimizer]}
    usual = config.optimizer == Config.optimizer
    suits |= {name: value for name, value in data.suits.items() if usual or name != "lr"}
    suits["num_classes"] = len(data.classes)
    suits["warmup_epochs"] = 1.0 if config.epochs > 1 else 0.1
    suits["batch_size"] = min(suits["batch_size"], len(data.train) or suits["batch_size"])
    missing = [field.name for field in fields(config) if getattr(config, field.name) is None]
    return replace(config, **{name: suits[name] for name in missing if name in suits})


def filled(setting: T | None) -> T:
    """A setting to which `resolved` has given a value. Raises: ValueError if it is None."""
    if setting is None:
        raise ValueError("a setting is None: use `train.settings.defaults.resolved`")
    return setting
