"""`flaxblocks verify`: compare a registered model with its PyTorch original."""

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
    """Compare a registered model with its PyTorch original, such as torchvision's or timm's.

    Args:
        entry: the model's registry row.
        weights: as in `create_model`; None gives both models random weights with calibrated
            running statistics.
        size: (height, width) of the random images.
        batch: number of images.
        train: run in training mode, with batch statistics, and compare the updated buffers.
        grad: also compare the gradient of every parameter.
        seed: seed of the random weights and images.
        num_classes: number of classes; None means that of the weights, or 1000 without weights.
        in_channels: channels of the image.
        config: further arguments of the model.
        float32: also run in float32.
        bfloat16: also run in bfloat16.
        whole: run the program that users run; of the modules only the model itself is compared.
        choice: which network to load if the checkpoint holds several.
        tell: called with the report of what was loaded from the checkpoint.

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
