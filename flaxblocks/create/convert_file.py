"""Whole checkpoint files from one layout and format to another, dtypes kept."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flax import nnx

from flaxblocks.checkpoints.orbax_folder import write_orbax
from flaxblocks.checkpoints.read import write_checkpoint
from flaxblocks.convert.convert import as_arrays, own_layout, translate
from flaxblocks.convert.fit import AUTO, closest
from flaxblocks.convert.keymap import NATIVE

__all__ = ["FORMATS", "Conversion", "convert_file"]

FORMATS = ("safetensors", "pth", "orbax")
SUFFIXES = {
    ".safetensors": "safetensors",
    ".pth": "pth",
    ".pt": "pth",
    "": "orbax",
    ".orbax": "orbax",
}


@dataclass(frozen=True)
class Conversion:
    """What `convert_file` did: layouts before and after, format, number of arrays and their
    bytes.
    """

    source_layout: str
    layout: str
    format: str
    arrays: int
    bytes: int


def convert_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    build: Callable[[Mapping[str, np.ndarray]], nnx.Module],
    *,
    format: str | None = None,
    layout: str = AUTO,
    overwrite: bool = False,
) -> Conversion:
    """Read a checkpoint of a module, in any of its layouts, and write it in another.

    Args:
        source: a file that `read_checkpoint` reads, or an Orbax folder.
        target: the file or folder to write; it appears whole or not at all.
        build: gives, for the arrays of the source, the module whose key maps to use; an abstract
            one does.
        format: "safetensors", "pth" or "orbax"; by the suffix of `target` unless given (none is a
            folder).
        layout: the layout to write. "auto" turns PyTorch's into Flax's and Flax's into PyTorch's,
            but a `.pth` is always PyTorch's and an Orbax folder always Flax's.
        overwrite: replace `target` if it is there.

    Raises:
        CheckpointError: the source cannot be read, or the target not written.
        ConversionError: the source is not a checkpoint of this module.
        ValueError: an unknown format or layout, or a target that is there already.
    """
    target = Path(target)
    format = _format(target, format)
    if target.exists() and os.path.exists(source) and os.path.samefile(source, target):
        raise ValueError(f"IN and OUT are both {str(target)!r}")
    if os.path.lexists(target) and not overwrite:
        raise ValueError(f"OUT {str(target)!r} is there already; --overwrite replaces it")
    if not target.absolute().parent.is_dir():
        raise ValueError(f"OUT {str(target)!r} must lie in a folder that exists")
    arrays = as_arrays(source)
    module = build(arrays)
    if layout == AUTO:
        native = closest(module, arrays).keys.layout == NATIVE
        to_torch = format == "pth" or (format == "safetensors" and native)
        layout = own_layout(module) if to_torch else NATIVE
    if format == "orbax" and layout != NATIVE:
        raise ValueError(
            f"`layout` (={layout!r}): an Orbax folder holds Flax's own layout, {NATIVE!r}"
        )
    converted, source_layout = translate(module, arrays, layout)
    del arrays  # unmaps the source: writing needs memory of its own
    if format == "orbax":
        write_orbax(converted, target)
    else:
        write_checkpoint(converted, target)
    size = sum(array.nbytes for array in converted.values())
    return Conversion(source_layout, layout, format, len(converted), size)


def _format(target: Path, format: str | None) -> str:
    by_suffix = SUFFIXES.get(target.suffix.lower())
    if format is None:
        if by_suffix is None:
            raise ValueError(
                f"OUT {str(target)!r} must end in .safetensors, .pth or .pt, "
                "or in .orbax or nothing for an Orbax folder"
            )
        return by_suffix
    if format not in FORMATS:
        raise ValueError(f"`format` (={format!r}) must be one of {FORMATS}")
    if by_suffix != format and not (format == "orbax" and by_suffix is None):
        endings = " or ".join(end or "nothing" for end, kind in SUFFIXES.items() if kind == format)
        raise ValueError(f"OUT {str(target)!r} must end in {endings} for the format {format!r}")
    return format
