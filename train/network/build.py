"""The model that a config names, and the preprocessing of its images."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

import flaxblocks as fb
import flaxblocks.models
from flaxblocks.cli.settings import read_settings
from flaxblocks.models.argument_names import our_name
from flaxblocks.models.registry import find_model
from flaxblocks.weights.preprocess import Transforms
from flaxblocks.weights.resolve import published_weights
from train.data.source import Dataset
from train.settings.config import Config

__all__ = ["build_model", "settings_of", "transforms_for"]


def build_model(config: Config, num_classes: int | None) -> Any:
    """Build the model of `config`, with its weights and computation dtype.

    Raises: ValueError as `fb.create_model`, or for a setting that the model does not have.
    """
    entry = find_model(config.model)
    for setting in config.set:
        _check_name(setting, entry.arguments)
    width = () if config.width_mult is None else (f"width_mult={config.width_mult}",)
    return fb.create_model(
        config.model,
        weights=config.weights,
        num_classes=num_classes,
        dtype=jnp.bfloat16 if config.dtype == "bfloat16" else None,
        param_dtype=jnp.result_type(float),
        rngs=config.seed,
        **read_settings(entry, [*width, *config.set]),
    )


def _check_name(setting: str, known: Collection[str]) -> None:
    """Raise ValueError for a setting that has its own flag, cannot be set, or is named
    differently.
    """
    name, _, value = setting.partition("=")
    meant = (our_name(name, ("in_channels", *known)) or "").partition("=")[0]
    if "in_channels" in (name, meant):
        raise ValueError(f"--set {setting}: images are RGB here, with 3 channels")
    if meant == "weights":
        raise ValueError(f"--set {setting}: use --weights instead, with a file or DEFAULT")
    if meant in known and name not in known:
        raise ValueError(f"--set {setting}: use --set {meant}={value} instead")


def transforms_for(config: Config, data: Dataset) -> Transforms:
    """The preprocessing for evaluation: that of the published weights, else that of the data.

    `--image-size` scales both the crop and the size that it is cut from; `--resize-size` sets the
    latter.

    Raises: ValueError for settings that exclude each other.
    """
    if config.augment == "none" and config.train_size is not None:
        raise ValueError(
            f"--train-size {config.train_size} needs --augment basic or trivial: with none, images "
            "have the size of evaluation"
        )
    transforms = data.transforms
    if config.weights is not None:
        published = published_weights(find_model(config.model).name, config.weights)
        transforms = transforms if published is None else published.transforms
    if config.image_size is not None:
        transforms = _scaled(transforms, config.image_size)
    if config.resize_size is not None:
        if config.resize_size < max(transforms.crop_size):
            raise ValueError(
                f"--resize-size {config.resize_size} must be at least {max(transforms.crop_size)}, "
                "the size of the crop"
            )
        transforms = replace(transforms, resize_size=config.resize_size, crop_mode="center")
    if config.crop_mode is not None:
        side = _shorter(transforms.resize_size)
        resize = side if config.crop_mode == "center" else (side, side)
        transforms = replace(transforms, resize_size=resize, crop_mode=config.crop_mode)
    given: dict[str, Any] = {
        name: _channels(name, getattr(config, name))
        for name in ("mean", "std")
        if getattr(config, name) is not None
    }
    if config.interpolation is not None:
        given["interpolation"] = config.interpolation
    return replace(transforms, **given)


def settings_of(transforms: Transforms) -> dict[str, Any]:
    """The settings that reproduce square `transforms` for any data and weights."""
    return {
        "image_size": transforms.crop_size[0],
        "resize_size": _shorter(transforms.resize_size),
        "interpolation": transforms.interpolation,
        "crop_mode": transforms.crop_mode,
        "mean": ",".join(map(str, transforms.mean)),
        "std": ",".join(map(str, transforms.std)),
    }


def _shorter(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else min(size)


def _channels(name: str, text: str) -> tuple[float, ...]:
    """Parse `"0.485,0.456,0.406"`. Raises: ValueError unless it is three numbers in [0, 1], and for
    `std` above 0.
    """
    try:
        numbers = tuple(map(float, text.split(",")))
    except ValueError:
        numbers = ()
    if (
        len(numbers) != 3
        or not all(0 <= n <= 1 for n in numbers)
        or (name == "std" and 0 in numbers)
    ):
        raise ValueError(
            f"--{name} {text} must be three numbers from 0 to 1, such as 0.485,0.456,0.406"
        )
    return numbers


def _scaled(transforms: Transforms, size: int) -> Transforms:
    factor = size / transforms.crop_size[0]
    resize = transforms.resize_size
    if isinstance(resize, int):
        return replace(transforms, crop_size=(size, size), resize_size=round(resize * factor))
    height, width = (round(side * factor) for side in resize)
    return replace(transforms, crop_size=(size, size), resize_size=(height, width))
