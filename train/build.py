"""The model that a config names, and how its images are prepared."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

import flaxblocks as fb
import flaxblocks.models  # noqa: F401
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

    `--image-size` scales both the crop and what it is cut from.
    """
    transforms = data.transforms
    if config.weights is not None:
        published = published_weights(find_model(config.model).name, config.weights)
        transforms = transforms if published is None else published.transforms
    size, resize = config.image_size, transforms.resize_size
    if size is None:
        return transforms
    factor = size / transforms.crop_size[0]
    if isinstance(resize, int):
        return replace(transforms, crop_size=(size, size), resize_size=round(resize * factor))
    height, width = (round(side * factor) for side in resize)
    return replace(transforms, crop_size=(size, size), resize_size=(height, width))
