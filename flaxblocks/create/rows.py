"""Rows of one network: what no array shows of it, and what says which of them is meant.

TensorFlow's padding, an epsilon, the place of a stride: two networks have the same names and shapes
and give other results. A library's layout may decide, or the `config.json` beside its file.
"""

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from flaxblocks.models.hub_config import row_of
from flaxblocks.models.registry import ModelEntry, find_model, model_entries
from flaxblocks.weights.entry import list_weights

__all__ = ["row_in", "said_by_config", "said_by_layout", "twins", "unsaid"]

GIVEN_BY_THE_CALLER = ("num_classes", "in_channels")


def row_in(entry: ModelEntry, layout: str) -> ModelEntry:
    """The row that the library of `layout` publishes the network of `entry` as."""
    return find_model(entry.in_layout.get(layout, entry.name))


def said_by_layout(entry: ModelEntry, layout: str) -> dict[str, Any]:
    """Arguments that every network in a layout has, as its library builds no other."""
    settings = getattr(entry.build, "layout_settings", {}).get(layout, {})
    return dict(settings)


def twins(entry: ModelEntry) -> list[ModelEntry]:
    """The other rows with the same names and shapes, whose settings differ in what no checkpoint
    shows.
    """
    visible = _visible(entry)
    return [
        other
        for other in model_entries()
        if other is not entry
        and other.build is entry.build
        and other.parameters == entry.parameters
        and _visible(other) == visible
        and other.settings != entry.settings
    ]


def _visible(entry: ModelEntry) -> dict[str, Any]:
    """What of a row's configuration shows in a checkpoint, or only changes training."""
    hidden = (*entry.settings, "initialization", "dropout", "stochastic_depth", "norm_momentum")
    return {name: value for name, value in entry.config.items() if name not in hidden}


def said_by_config(
    entry: ModelEntry, config: Mapping[str, Any], settings: Mapping[str, Any] | None
) -> tuple[ModelEntry, dict[str, Any]]:
    """The row and the arguments of a model, where the checkpoint's own `config.json` says more of
    them than the caller.

    Args:
        entry: the row asked for.
        config: the caller's arguments, which come first.
        settings: the contents of a `config.json`, or None.
    """
    said = None if settings is None else row_of(settings)
    if said is None:
        return entry, dict(config)
    name, arguments = said
    other = find_model(name)
    if other is not entry and other not in twins(entry):
        return entry, dict(config)  # of another network: its arrays will not fit
    known = {key: value for key, value in arguments.items() if key not in GIVEN_BY_THE_CALLER}
    return other, {**known, **config}


def unsaid(entry: ModelEntry, layout: str, file: str) -> str | None:
    """Where another row has the same names, and neither the layout nor the file's name tells the
    two apart: a sentence that names it.
    """
    doubts = getattr(entry.build, "layout_doubts", {})
    if layout in doubts:
        return str(doubts[layout])
    others = twins(entry)
    decided = any(row.in_layout.get(layout) == entry.name for row in (entry, *others))
    if not others or decided or _is_named(entry, others, file):
        return None
    differing = " or ".join(
        f"{other.name} ("
        + ", ".join(f"{k}={v!r}" for k, v in other.settings.items() if v != entry.settings[k])
        + ")"
        for other in others
    )
    return (
        f"nothing in {file} says whether it is of {entry.name} or of {differing}: taken for "
        f"{entry.name}; give the other name if it is of that"
    )


def _is_named(entry: ModelEntry, others: Iterable[ModelEntry], file: str) -> bool:
    """The file is called as one of the row's published ones, lies in the hub's cache of one, or has
    the row's own name in its, where that is no part of another's.
    """
    name = PurePath(file).name
    published = {weights.file_name for weights in list_weights(entry.name)}
    is_part = any(entry.name in other.name for other in others)
    cached = any(part.startswith(f"models--timm--{entry.name}.") for part in PurePath(file).parts)
    return name in published or cached or (entry.name in name and not is_part)
