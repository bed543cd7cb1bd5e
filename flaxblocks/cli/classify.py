"""The work of `flaxblocks predict`: the most likely classes of image files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxblocks.cli.class_names import ClassNames, class_names
from flaxblocks.cli.output import left_of
from flaxblocks.create.create import recognise
from flaxblocks.create.places import Choice
from flaxblocks.create.pour import pour
from flaxblocks.create.report import LoadReport
from flaxblocks.create.source import read_source
from flaxblocks.inference import compile_inference
from flaxblocks.models.registry import ModelEntry
from flaxblocks.weights.preprocess import Transforms, preprocess_batch
from flaxblocks.weights.resolve import default_weights, published_weights, resolve_weights

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
    choice: Choice | None = None,
    classes: Path | None = None,
    tell: Callable[[LoadReport, ClassNames], None] | None = None,
) -> list[dict[str, Any]]:
    """Classify image files.

    Published weights define their own preprocessing. For a checkpoint file, the preprocessing is
    that of the model's default weights in the library whose layout the file uses. Classes are given
    by name if `class_names` finds names for them, else by index.

    Args:
        entry: the model's registry row.
        weights: a checkpoint file or the name of published weights.
        images: image files.
        top: how many classes to return per image.
        num_classes: must equal the number of classes in the weights; None means that number.
        in_channels: must be 3: images are read as RGB.
        config: further arguments of the model.
        choice: which network to load if the checkpoint holds several.
        classes: a file with the name of one class on each line.
        tell: called with the report of what was loaded from the checkpoint, and with the names.

    Returns: for each image `{"image": path, "top": [{"class", "index", "probability"}, ...]}`,
        most likely class first.

    Raises: ValueError for an unreadable image, unknown weights, another number of classes, or
        logits that are not finite; CheckpointError and ConversionError as `create_model`.
    """
    if in_channels != 3:
        raise ValueError(f"`in_channels` (={in_channels}) must be 3: images are read as RGB")
    if num_classes == 0:
        raise ValueError(
            "`num_classes` (=0) must be at least 1: without a head there are no classes"
        )
    config = config or {}
    contents = read_source(resolve_weights(entry.name, weights))
    found = recognise(entry, config, contents, choice, without_head="refuse")
    if num_classes not in (None, found.config["num_classes"]):
        raise ValueError(
            f"`num_classes` (={num_classes}) must be {found.config['num_classes']}, "
            "the number that the weights have"
        )
    published = published_weights(entry.name, weights)
    alike = published or default_weights(entry.name, found.layout)
    transforms = Transforms() if alike is None else alike.transforms
    batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    inputs = [
        preprocess_batch(batch, transforms) for batch in batches
    ]  # a bad image fails before the model is built
    model, report = pour(found, contents)
    known = class_names(
        model.num_classes,
        weights,
        file=classes,
        published=published,
        settings=contents.settings,
        is_bare=not (report.taken or report.head or left_of(report)),
    )
    if tell is not None:
        tell(report, known)
    run = compile_inference(model)
    names = known.names or [str(i) for i in range(model.num_classes)]
    results = []
    for batch, pixels in zip(batches, inputs, strict=True):
        probabilities, indices = jax.lax.top_k(
            jax.nn.softmax(run(jnp.asarray(pixels))), min(top, model.num_classes)
        )
        if not np.isfinite(probabilities).all():
            raise ValueError(f"weights {weights!r} give logits that are not finite")
        for path, row, ranking in zip(batch, probabilities.tolist(), indices.tolist(), strict=True):
            guesses = [
                {"class": names[i], "index": i, "probability": p}
                for i, p in zip(ranking, row, strict=True)
            ]
            results.append({"image": str(path), "top": guesses})
    return results
