"""Whole checkpoint files from one layout and format to another, dtypes kept."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import nnx

from flaxblocks.checkpoints.orbax_folder import write_orbax
from flaxblocks.checkpoints.write import ROWS, write_checkpoint
from flaxblocks.convert.fill import translated
from flaxblocks.convert.fit import AUTO
from flaxblocks.convert.keymap import NATIVE, key_map, variables_of
from flaxblocks.create.build import ANY_KEYS, Keys
from flaxblocks.create.create import recognise
from flaxblocks.create.match import Match
from flaxblocks.create.places import Choice
from flaxblocks.create.pour import report_of
from flaxblocks.create.report import LoadReport
from flaxblocks.create.save import own_layout
from flaxblocks.create.source import read_source
from flaxblocks.models.registry import ModelEntry

__all__ = ["FORMATS", "Conversion", "convert_file"]

# What can be written, by the word for it, and by suffix; an Orbax folder needs none.
FORMATS = {row.suffixes[0].removeprefix("."): row for row in ROWS.values()}
FOLDER = "orbax"


@dataclass(frozen=True)
class Conversion:
    """What `convert_file` did.

    Attributes:
        entry: the row that the source was recognised as.
        source_layout: whose naming the source was in.
        layout: and the target is.
        format: of the target.
        arrays: how many it holds.
        bytes: and their size.
        report: what was taken of the source, and what was left.
    """

    entry: ModelEntry
    source_layout: str
    layout: str
    format: str
    arrays: int
    bytes: int
    report: LoadReport


def convert_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    entry: ModelEntry,
    config: Mapping[str, Any] | None = None,
    *,
    choice: Choice | None = None,
    format: str | None = None,
    layout: str = AUTO,
    overwrite: bool = False,
) -> Conversion:
    """Read a checkpoint of a registered model, in any of its layouts, and write it in another.

    Args:
        source: a file or folder that `read_checkpoint` reads.
        target: the file or folder to write; it appears whole or not at all.
        entry: the row whose checkpoint it is.
        config: further arguments of the model. `num_classes` is the checkpoint's unless given; 0
            leaves its head out.
        choice: which of several networks in the source.
        format: one of `FORMATS`; by the suffix of `target` unless given (none is an Orbax folder).
        layout: the naming to write. "auto" turns PyTorch's into Flax's and Flax's into PyTorch's,
            but a `.pth` is always PyTorch's and an Orbax folder always Flax's: the whole
            `nnx.state` of the model, with the random streams of a new one.
        overwrite: replace `target` if it is there.

    Raises:
        CheckpointError: the source cannot be read, or the target not written.
        ConversionError: the source is not a checkpoint of this model.
        ValueError: an unknown format or layout, or a target that is there already.
    """
    target = Path(target)
    format = _format(target, format)
    _check_target(source, target, overwrite)
    contents = read_source(source)
    keys = _new_keys() if format == FOLDER else ANY_KEYS
    found = recognise(entry, config or {}, contents, choice, keys, features=True)
    if found.draws_head:
        whole = f"the checkpoint's {found.head.num_classes} or " * bool(found.head.num_classes)
        raise ValueError(
            f"`num_classes` (={found.config['num_classes']}) must be {whole}0, without a head: "
            "none is drawn for a file"
        )
    if found.in_channels != (wanted := found.config["in_channels"]):  # else it would be adapted
        raise ValueError(f"`in_channels` (={wanted}) must be the checkpoint's {found.in_channels}")
    layout = _layout(found, layout, format)
    names = key_map(found.model, layout)
    converted = translated(found.model, found.found.keys, names, found.arrays)
    report = report_of(found, contents, len(found.arrays))
    source_layout, row, model = found.layout, found.entry, found.model
    del contents, found  # unmaps the source: writing needs memory of its own
    if format == FOLDER:  # it needs no suffix
        write_orbax(_state(model, converted), target)
    else:
        write_checkpoint(converted, target)
    size = sum(array.nbytes for array in converted.values())
    return Conversion(row, source_layout, layout, format, len(converted), size, report)


def _new_keys() -> Keys:
    """Those of the random streams that `create_model` gives a model unless told otherwise."""
    rngs = nnx.Rngs(0)
    return {"params": rngs.params(), "dropout": rngs.dropout()}


def _state(model: nnx.Module, arrays: Mapping[str, Any]) -> nnx.State:
    """The state of a model with these arrays, its random streams as they are."""
    for path, variable in variables_of(model).items():
        variable.set_value(arrays[path])
    return nnx.state(model)


def _check_target(source: str | os.PathLike[str], target: Path, overwrite: bool) -> None:
    if target.exists() and os.path.exists(source) and os.path.samefile(source, target):
        raise ValueError(f"IN and OUT are both {str(target)!r}")
    if os.path.lexists(target) and not overwrite:
        raise ValueError(f"OUT {str(target)!r} is there already; --overwrite replaces it")
    if not target.absolute().parent.is_dir():
        raise ValueError(f"OUT {str(target)!r} must lie in a folder that exists")


def _layout(found: Match, layout: str, format: str) -> str:
    """The naming to write."""
    if layout == AUTO:
        native = found.layout == NATIVE
        to_torch = format == "pth" or (format != FOLDER and native)
        return own_layout(found.model) if to_torch else NATIVE
    if format == FOLDER and layout != NATIVE:
        raise ValueError(
            f"`layout` (={layout!r}): an Orbax folder holds Flax's own layout, {NATIVE!r}"
        )
    return layout


def _format(target: Path, format: str | None) -> str:
    suffix = target.suffix.lower()
    by_suffix = next((word for word, row in FORMATS.items() if suffix in row.suffixes), None)
    if not suffix:
        by_suffix = FOLDER
    if format is None:
        if by_suffix is None:
            raise ValueError(
                f"OUT {str(target)!r} must end in {_either(ROWS)} or nothing for an Orbax folder"
            )
        return by_suffix
    if format not in FORMATS:
        raise ValueError(f"`format` (={format!r}) must be {_either(FORMATS)}")
    if by_suffix != format and not (format == FOLDER and by_suffix is None):
        endings = [*FORMATS[format].suffixes, *(["nothing"] if format == FOLDER else [])]
        raise ValueError(
            f"OUT {str(target)!r} must end in {_either(endings)} for the format {format!r}"
        )
    return format


def _either(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
