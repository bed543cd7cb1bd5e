"""PyTorch CNNs in Flax NNX, proven identical: blocks, models, a converter that goes both ways.

What is asked for is imported when it is asked for: neither JAX nor any part of the package before.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flaxblocks.inspect.installation.known_bad import warn_of_bad_jaxlib
from flaxblocks.inspect.installation.moved import forward_old_names

if TYPE_CHECKING:  # the same as HOMES, for type checkers and editors
    from flaxblocks import blocks, nn, parity
    from flaxblocks.checkpoints.error import CheckpointError
    from flaxblocks.checkpoints.read import read_checkpoint
    from flaxblocks.checkpoints.write import write_checkpoint
    from flaxblocks.convert.fit import ConversionError
    from flaxblocks.create.create import create_model
    from flaxblocks.create.load import load_torch
    from flaxblocks.create.preprocess import preprocess
    from flaxblocks.create.report import LoadReport
    from flaxblocks.create.save import to_torch
    from flaxblocks.inference import compile_inference, fold_batch_norm
    from flaxblocks.inspect.installation.known_bad import KnownBadJaxlib
    from flaxblocks.models.registry import list_models
    from flaxblocks.parity.selftest import selftest

__all__ = [
    "CheckpointError",
    "ConversionError",
    "KnownBadJaxlib",
    "LoadReport",
    "blocks",
    "compile_inference",
    "create_model",
    "fold_batch_norm",
    "list_models",
    "load_torch",
    "nn",
    "parity",
    "preprocess",
    "read_checkpoint",
    "selftest",
    "to_torch",
    "write_checkpoint",
]

HOMES = {  # name -> the module that it is in; packages need no row
    "CheckpointError": "flaxblocks.checkpoints.error",
    "ConversionError": "flaxblocks.convert.fit",
    "KnownBadJaxlib": "flaxblocks.inspect.installation.known_bad",
    "LoadReport": "flaxblocks.create.report",
    "compile_inference": "flaxblocks.inference",
    "create_model": "flaxblocks.create.create",
    "fold_batch_norm": "flaxblocks.inference",
    "list_models": "flaxblocks.models.registry",
    "load_torch": "flaxblocks.create.load",
    "preprocess": "flaxblocks.create.preprocess",
    "read_checkpoint": "flaxblocks.checkpoints.read",
    "selftest": "flaxblocks.parity.selftest",
    "to_torch": "flaxblocks.create.save",
    "write_checkpoint": "flaxblocks.checkpoints.write",
}


def __getattr__(name: str) -> Any:
    value = getattr(import_module(HOMES[name]), name) if name in HOMES else _module(name)
    globals()[name] = value  # the next time nobody asks here
    return value


def _module(name: str) -> Any:
    full = f"{__name__}.{name}"
    if not name.startswith("_"):
        try:
            return import_module(full)
        except ModuleNotFoundError as error:
            if error.name != full:
                raise
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__]
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


forward_old_names()
warn_of_bad_jaxlib()
