"""The model that a config names, and how its images are prepared."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

import flaxblocks as fb
import flaxblocks.models
from flaxblocks.create import published_weights
from flaxblocks.preprocess import Transforms
from flaxblocks.registry import find_model
from flaxblocks.settings import read_settings
from train.config import Config
from train.data.source import Dataset

__all__ = ["build_model", "transforms_for"]


def build_model(config: Config, num_classes: int | None) -> Any:
    """The model, with its weights, computing in the dtype that `config` says.

    Raises: ValueError as `fb.create_model`, or for a setting that the model has not.
    """
    entry = find_model(config.model)
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


def transforms_for(config: Config, data: Dataset) -> Transforms:
    """How images are prepared for evaluation: as the published weights say, else as the data does.

    `--image-size` scales both the crop and what it is cut from; `--resize-size` sets the latter.
    """
    if config.augment == "none" and config.train_size is not None:
        raise ValueError(
            f"--train-size {config.train_size} needs --augment basic or trivial: with none, images "
            "are as in evaluation"
        )
    transforms = data.transforms
    if config.weights is not None:
        published = published_weights(find_model(config.model).name, config.weights)
        transforms = transforms if published is None else published.transforms
    if config.image_size is not None:
        transforms = _scaled(transforms, config.image_size)
    if config.resize_size is None:
        return transforms
    if config.resize_size < max(transforms.crop_size):
        raise ValueError(
            f"--resize-size {config.resize_size} must be at least {max(transforms.crop_size)}, the "
            "size of the image that is cut from it"
        )
    return replace(transforms, resize_size=config.resize_size, crop_mode="center")


def _scaled(transforms: Transforms, size: int) -> Transforms:
    factor = size / transforms.crop_size[0]
    resize = transforms.resize_size
    if isinstance(resize, int):
        return replace(transforms, crop_size=(size, size), resize_size=round(resize * factor))
    height, width = (round(side * factor) for side in resize)
    return replace(transforms, crop_size=(size, size), resize_size=(height, width))
