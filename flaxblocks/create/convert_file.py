"""Converting whole checkpoint files from one layout and format to another, keeping dtypes."""

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

# The formats that can be written, by the value of `--format`; an Orbax folder needs no suffix.
FORMATS = {row.suffixes[0].removeprefix("."): row for row in ROWS.values()}
FOLDER = "orbax"


@dataclass(frozen=True)
class Conversion:
    """The result of `convert_file`.

    Attributes:
        entry: the registry row with which the source was matched.
        source_layout: layout of the source.
        layout: layout of the target.
        format: format of the target.
        arrays: number of arrays in the target.
        bytes: their total size in bytes.
        report: what was taken from the source, and what was left out.
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
        target: the file or folder to write, completely or not at all.
        entry: the registry row of the model.
        config: further arguments of the model. `num_classes` is that of the checkpoint unless
            given; 0 leaves out its head.
        choice: which network of the source to take.
        format: one of `FORMATS`; by default determined by the suffix of `target` (an Orbax folder
            if it has none).
        layout: the layout to write. "auto" converts PyTorch's to Flax's and Flax's to PyTorch's,
            but a `.pth` is always PyTorch's and an Orbax folder always Flax's: the whole
            `nnx.state` of the model, with the random streams of a new one.
        overwrite: replace an existing `target`.

    Returns: what was written, with the report of what was read.

    Raises:
        CheckpointError: the source cannot be read, or the target cannot be written.
        ConversionError: the source is not a checkpoint of this model.
        ValueError: an unknown format or layout, a number of classes or channels other than the
            checkpoint's, or an existing target.
    """
    target = Path(target)
    format = _format(target, format)
    _check_target(source, target, overwrite)
    contents = read_source(source)
    keys = _new_keys() if format == FOLDER else ANY_KEYS
    found = recognise(entry, config or {}, contents, choice, keys, without_head="leave")
    if found.draws_head:
        whole = f"the checkpoint's {found.head.num_classes} or " * bool(found.head.num_classes)
        raise ValueError(
            f"`num_classes` (={found.config['num_classes']}) must be {whole}0, without a head: "
            "no new head is drawn for a file"
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
    """The keys of the random streams that `create_model` gives a model by default."""
    rngs = nnx.Rngs(0)
    return {"params": rngs.params(), "dropout": rngs.dropout()}


def _state(model: nnx.Module, arrays: Mapping[str, Any]) -> nnx.State:
    """The state of a model with these arrays and its own random streams."""
    for path, variable in variables_of(model).items():
        variable.set_value(arrays[path])
    return nnx.state(model)


def _check_target(source: str | os.PathLike[str], target: Path, overwrite: bool) -> None:
    if target.exists() and os.path.exists(source) and os.path.samefile(source, target):
        raise ValueError(f"IN and OUT are both {str(target)!r}")
    if os.path.lexists(target) and not overwrite:
        raise ValueError(f"OUT {str(target)!r} exists already; --overwrite replaces it")
    if not target.absolute().parent.is_dir():
        raise ValueError(f"OUT {str(target)!r} must be in an existing folder")


def _layout(found: Match, layout: str, format: str) -> str:
    """The layout to write."""
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
