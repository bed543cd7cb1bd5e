"""`flaxblocks predict`: image files to the most likely classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from flaxblocks.create import create_model
from flaxblocks.inference import compile_inference
from flaxblocks.preprocess import Transforms, preprocess_batch
from flaxblocks.registry import ModelEntry
from flaxblocks.weights import WeightEntry, find_weights, list_weights

__all__ = ["predict"]

BATCH = 16


def predict(
    entry: ModelEntry,
    weights: str,
    images: Sequence[Path],
    *,
    top: int = 5,
    num_classes: int | None = None,
    in_channels: int = 3,
    config: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Classify image files.

    Published weights bring their own preprocessing and class names. A file's are those of the
    model's default weights; its classes have names only if they are as many.

    Args:
        entry: the model's registry row.
        weights: a checkpoint file or the name of published weights.
        images: image files.
        top: classes to give for each.
        num_classes: as in `create_model`.
        in_channels: must be 3: images are read as RGB.
        config: further arguments of the model.

    Returns: for each image `{"image": path, "top": [{"class", "index", "probability"}, ...]}`,
        likeliest first.

    Raises: ValueError for an unreadable image or unknown weights, CheckpointError and
        ConversionError as `create_model`.
    """
    if in_channels != 3:
        raise ValueError(f"`in_channels` (={in_channels}) must be 3: images are read as RGB")
    published = _published(entry, weights)
    transforms = Transforms() if published is None else published.transforms
    batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    inputs = [
        preprocess_batch(batch, transforms) for batch in batches
    ]  # a bad image fails before the model is built
    model = create_model(entry.name, weights=weights, num_classes=num_classes, **(config or {}))
    if not model.num_classes:
        raise ValueError(f"`num_classes` (={model.num_classes}) leaves no class to predict")
    run = compile_inference(model)
    names = () if published is None else published.categories
    results = []
    for batch, pixels in zip(batches, inputs, strict=True):
        probabilities, indices = jax.lax.top_k(
            jax.nn.softmax(run(jnp.asarray(pixels))), min(top, model.num_classes)
        )
        for path, row, ranking in zip(batch, probabilities.tolist(), indices.tolist(), strict=True):
            guesses = [
                {
                    "class": names[i] if len(names) == model.num_classes else str(i),
                    "index": i,
                    "probability": p,
                }
                for i, p in zip(ranking, row, strict=True)
            ]
            results.append({"image": str(path), "top": guesses})
    return results


def _published(entry: ModelEntry, weights: str) -> WeightEntry | None:
    """The weight entry whose preprocessing and names apply: the one named, else the model's
    default.
    """
    if not Path(weights).exists() and Path(weights).name == weights and not Path(weights).suffix:
        return find_weights(entry.name, weights)
    return next((entry for entry in list_weights(entry.name) if entry.default), None)
