"""`flaxblocks verify`: build both models of a registry row, give them the same weights, compare."""

from collections.abc import Callable
from typing import Any

import numpy as np

from flaxblocks.create.build import abstract_model
from flaxblocks.create.create import create_model, recognise
from flaxblocks.create.places import Choice
from flaxblocks.create.pour import pour
from flaxblocks.create.report import LoadReport
from flaxblocks.create.save import to_torch
from flaxblocks.create.source import read_source
from flaxblocks.models.registry import ModelEntry
from flaxblocks.parity.compare import compare
from flaxblocks.parity.oracle import calibrated_oracle, load_arrays, make_oracle
from flaxblocks.parity.report import ParityReport
from flaxblocks.weights.resolve import resolve_weights

__all__ = ["verify"]


def verify(
    entry: ModelEntry,
    *,
    weights: Any = None,
    size: tuple[int, int] = (96, 96),
    batch: int = 2,
    train: bool = False,
    grad: bool = False,
    seed: int = 0,
    num_classes: int | None = None,
    in_channels: int = 3,
    config: dict[str, Any] | None = None,
    float32: bool = True,
    bfloat16: bool = False,
    whole: bool = False,
    choice: Choice | None = None,
    tell: Callable[[LoadReport], None] | None = None,
) -> ParityReport:
    """Compare a registered model with the PyTorch model that torchvision or timm has under its
    name.

    Args:
        entry: the row.
        weights: as in `create_model`; None gives both the random weights of the PyTorch model,
            calibrated.
        size: (height, width) of the random images.
        batch: number of images.
        train: normalise by the batch, and compare the updated buffers.
        grad: compare the gradient of every parameter.
        seed: of the random weights and images.
        num_classes: width of the head; if None, that of the weights, and 1000 without weights.
        in_channels: channels of the image.
        config: further arguments of the model.
        float32: run in float32 too.
        bfloat16: run in bfloat16 too.
        whole: run the program that users run, and compare no module but the model itself.
        choice: which of several networks in the checkpoint.
        tell: is given what was taken of the checkpoint.

    Raises: OracleError if the PyTorch model cannot be built here; ConversionError if the weights
        are not this model's.
    """
    config = config or {}
    settings = {"in_channels": in_channels, **config}
    if weights is None:
        classes = 1000 if num_classes is None else num_classes
        settings["num_classes"] = classes
        abstract_model(entry.name, **settings)  # checks the arguments, and names the wrong one
        oracle = calibrated_oracle(entry, classes, in_channels, config, size=size, seed=seed)
        model = create_model(entry.name, weights=oracle.state_dict(), **settings)
    else:
        contents = read_source(resolve_weights(entry.name, weights))
        found = recognise(entry, {**settings, "num_classes": num_classes}, contents, choice)
        entry, classes = found.entry, found.config["num_classes"]
        oracle = make_oracle(entry, classes, in_channels, config, seed=seed)
        model, report = pour(found, contents)
        if tell is not None:
            tell(report)
        load_arrays(oracle, to_torch(model, entry.layout))
    images = np.random.default_rng(seed).standard_normal((batch, *size, in_channels))
    return compare(
        model,
        oracle,
        images,
        entry.layout,
        train=train,
        grad=grad,
        float32=float32,
        bfloat16=bfloat16,
        whole=whole,
    )
