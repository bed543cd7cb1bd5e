"""Filling a model from a checkpoint that was matched with it."""

from functools import partial
from typing import Any

from flaxblocks.checkpoints.contents import Contents
from flaxblocks.convert.fill import fill
from flaxblocks.create.build import build, draw_the_rest
from flaxblocks.create.match import Match
from flaxblocks.create.origin import remember
from flaxblocks.create.report import LoadReport, left_of
from flaxblocks.create.rows import unsaid
from flaxblocks.create.source import MAPPING

__all__ = ["pour", "report_of"]


def pour(found: Match, contents: Contents) -> tuple[Any, LoadReport]:
    """Fill the model of a match that fits; what the checkpoint lacks is drawn at random.

    This changes the abstract model in `found` into a concrete one, so it can be done only once.

    Returns: the model and the report.
    Raises: ConversionError for a different kind of number, or for one that a variable's dtype
        cannot hold.
    """
    keys, model = found.found.keys, found.model
    loaded, cast = fill(found.variables, keys, found.arrays, found.found.uncounted)
    if found.found.missing:
        draw_the_rest(model, found.draws, partial(build, found.entry, found.config, found.keys))
    report = report_of(found, contents, loaded, cast)
    remember(model, layout=keys.layout, report=report)
    return model, report


def report_of(
    found: Match, contents: Contents, loaded: int, cast: tuple[tuple[str, str, str], ...] = ()
) -> LoadReport:
    """The report of what was taken from a checkpoint, and what was left out."""
    place, head = found.place, found.head
    taken_names = set(head.names) if set(head.keys) & set(found.arrays) else set()
    unused = [place.own_name(name) for name in head.names if name in place.arrays]
    passed_by = [] if taken_names else unused
    return LoadReport(
        found.layout,
        loaded,
        uncounted=found.found.uncounted,
        cast=cast,
        taken=place.name,
        others=place.others,
        head=_of_head(found, bool(taken_names)),
        settings=_settings(found),
        doubt=_doubt(found, contents),
        left=(*passed_by, *left_of(place, contents, taken_names)),
    )


def _settings(found: Match) -> str:
    """A phrase about the settings that the checkpoint determined; "" if none."""
    row = f" as {found.entry.name}" if found.entry is not found.asked else ""
    listed = ", ".join(f"{name}={value!r}" for name, value in found.decided.items())
    if not (row or listed):
        return ""
    return f"built{row}{' with ' * bool(listed)}{listed}, as {found.by}"


def _doubt(found: Match, contents: Contents) -> str:
    """A sentence about another network that it may be, if the caller gave no setting that tells."""
    told = contents.settings or set(found.config) & set(found.entry.settings)
    if told or contents.name == MAPPING:
        return ""
    return unsaid(found.entry, found.layout, contents.name) or ""


def _of_head(found: Match, taken: bool) -> str:
    if taken:
        return found.head.phrase
    classes = found.config["num_classes"]
    return f"a head of {classes} classes was drawn" if classes else ""
