"""The PyTorch original of a registry row, such as torchvision's or timm's model.

Imports torch when called.
"""

import importlib
import inspect
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxblocks.checkpoints.module_versions import METADATA, versions_of
from flaxblocks.models.registry import ModelEntry
from flaxblocks.parity.calibration import calibrate

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "OracleError",
    "calibrated_oracle",
    "import_torchvision",
    "load_arrays",
    "make_oracle",
]

TAKEN_BY_TORCHVISIONS_FUNCTIONS = ("width_mult", "reduced_tail", "dropout")
CALIBRATION_IMAGES = 4
CALIBRATION_SIDE = 96  # minimum; leaves 3x3 pixels per image at reduction 32


class OracleError(ValueError):
    """There is no PyTorch model to compare with: a library is missing or cannot build it."""


_libraries: list[Any] = []  # keeps operators registered: a garbage-collected Library removes them


def import_torchvision():
    """Import torchvision, even if its C++ operators do not match the installed torch.

    Importing a CUDA build of torchvision next to a CPU build of torch fails because two operator
    schemas are missing. The models are pure Python, so the missing schemas are declared first.
    """
    import torch

    if not hasattr(torch.ops.torchvision, "nms"):
        try:
            import torchvision
        except RuntimeError:
            library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _libraries.append(library)
    import torchvision

    return torchvision


def make_oracle(
    entry: ModelEntry, num_classes: int, in_channels: int, config: Mapping[str, Any], seed: int = 0
) -> "nn.Module":
    """Build the PyTorch model of a registry row with random weights, in evaluation mode.

    Args:
        entry: the row, which names the library.
        num_classes: number of classes; 0 for no head, which torchvision cannot build.
        in_channels: channels of the image; torchvision's models take only 3.
        config: further arguments, which the library's own constructor must accept.
        seed: seed of the random weights; torch's global random state does not change.

    Raises: OracleError if the library is not installed or does not accept these arguments.
    """
    try:
        import_torchvision()
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _build(entry, num_classes, in_channels, config)
    except ImportError as error:
        if entry.oracle is not None and error.name == entry.oracle.partition(".")[0]:
            raise OracleError(
                f"the PyTorch original of {entry.name} is {entry.oracle}, which is not in "
                "the installed package: run this from the repository, with PYTHONPATH=."
            ) from error
        raise OracleError(
            f"to compare with PyTorch, {error.name or 'torch'} must be installed: "
            "pip install 'flaxblocks[torch]'"
        ) from error
    except TypeError as error:
        raise OracleError(
            f"{entry.source} cannot build {entry.name} with {dict(config)}: {error}"
        ) from error
    return model.eval()


def _build(entry: ModelEntry, num_classes: int, in_channels: int, config: Mapping[str, Any]):
    config = {entry.oracle_arguments.get(name, name): value for name, value in config.items()}
    if entry.oracle is not None:
        module, _, name = entry.oracle.partition(":")
        build = getattr(importlib.import_module(module), name)
        settings = {**entry.config, **config, "in_channels": in_channels}
        return build(num_classes=num_classes, **settings)
    if entry.source == "timm":
        import timm

        arguments = {**config, "num_classes": num_classes, "in_chans": in_channels}
        return timm.create_model(entry.library_name or entry.name, **arguments)
    if entry.source != "torchvision":
        raise OracleError(f"{entry.name} has no PyTorch original to compare with")
    from torchvision import models

    if in_channels != 3:
        raise OracleError(f"torchvision's {entry.name} takes 3 channels, not {in_channels}")
    if num_classes < 1:
        raise OracleError(f"torchvision's {entry.name} cannot be without a head: 1 class or more")
    model = models.get_model(entry.library_name or entry.name, num_classes=num_classes, **config)
    known = {*inspect.signature(type(model).__init__).parameters, *TAKEN_BY_TORCHVISIONS_FUNCTIONS}
    swallowed = sorted(set(config) - known)  # some classes silently accept any argument
    if swallowed:
        raise OracleError(f"torchvision's {entry.name} has no {', '.join(swallowed)}")
    return model


def calibrated_oracle(
    entry: ModelEntry,
    num_classes: int = 1000,
    in_channels: int = 3,
    config: Mapping[str, Any] | None = None,
    *,
    size: tuple[int, int] = (CALIBRATION_SIDE, CALIBRATION_SIDE),
    passes: int = 3,
    seed: int = 0,
) -> "nn.Module":
    """The PyTorch model of a registry row with weights from `calibrate`, in evaluation mode.

    Args:
        entry: the row, which names the library.
        num_classes: number of classes.
        in_channels: channels of the image; torchvision's models take only 3.
        config: further arguments, as in `make_oracle`.
        size: (height, width) of the images to be compared; calibration images are at least as
            large, and large enough that each norm sees some tens of values per channel.
        passes: number of passes over calibration images.
        seed: seed of weights and images.

    Raises: OracleError as `make_oracle`.
    """
    model = make_oracle(entry, num_classes, in_channels, config or {}, seed=seed)
    sides = (max(CALIBRATION_SIDE, side) for side in size)
    calibrate(model, (CALIBRATION_IMAGES, in_channels, *sides), passes=passes, seed=seed)
    return model


def load_arrays(model: "nn.Module", arrays: Mapping[str, np.ndarray]) -> None:
    """`model.load_state_dict(arrays, strict=True)` for writable arrays from `to_torch`."""
    import torch

    state = OrderedDict((key, torch.from_numpy(a)) for key, a in arrays.items())
    if versions_of(arrays):
        setattr(state, METADATA, versions_of(arrays))
    model.load_state_dict(state)
