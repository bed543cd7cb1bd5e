"""Choosing between registry rows with the same names and shapes but different settings.

TensorFlow's padding, an epsilon or the position of a stride changes the results, but no array shows
it. The layout of the checkpoint may determine the row, or the `config.json` in its folder.
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
    """The row of the network of `entry` as the library of `layout` publishes it."""
    return find_model(entry.in_layout.get(layout, entry.name))


def said_by_layout(entry: ModelEntry, layout: str) -> dict[str, Any]:
    """Arguments that are the same for every network in a layout, because of its library."""
    settings = getattr(entry.build, "layout_settings", {}).get(layout, {})
    return dict(settings)


def twins(entry: ModelEntry) -> list[ModelEntry]:
    """The other rows with the same names and shapes, but with different settings, which no
    checkpoint shows.
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
    """The part of a row's configuration that a checkpoint shows: without its settings and what only
    matters in training.
    """
    hidden = (*entry.settings, "initialization", "dropout", "stochastic_depth", "norm_momentum")
    return {name: value for name, value in entry.config.items() if name not in hidden}


def said_by_config(
    entry: ModelEntry, config: Mapping[str, Any], settings: Mapping[str, Any] | None
) -> tuple[ModelEntry, dict[str, Any]]:
    """The row and arguments of a model according to the checkpoint's `config.json` and the caller.

    Args:
        entry: the requested row.
        config: the caller's arguments, which take precedence.
        settings: the content of the `config.json`, or None.
    """
    said = None if settings is None else row_of(settings)
    if said is None:
        return entry, dict(config)
    name, arguments = said
    other = find_model(name)
    if other is not entry and other not in twins(entry):
        return entry, dict(config)  # for another network, so the arrays will not fit
    known = {key: value for key, value in arguments.items() if key not in GIVEN_BY_THE_CALLER}
    return other, {**known, **config}


def unsaid(entry: ModelEntry, layout: str, file: str) -> str | None:
    """A sentence naming the other rows with the same names and shapes, if neither the layout nor
    the file's name tells which row it is; else None.
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
        f"nothing in {file} says whether it is of {entry.name} or of {differing}: taken as "
        f"{entry.name}; otherwise create the model by the other name"
    )


def _is_named(entry: ModelEntry, others: Iterable[ModelEntry], file: str) -> bool:
    """Whether a file's name identifies the row: it is that of published weights of the row, it is
    in the hub's cache for the row, or it contains the row's name, which is no part of another's.
    """
    name = PurePath(file).name
    published = {weights.file_name for weights in list_weights(entry.name)}
    is_part = any(entry.name in other.name for other in others)
    cached = any(part.startswith(f"models--timm--{entry.name}.") for part in PurePath(file).parts)
    return name in published or cached or (entry.name in name and not is_part)
