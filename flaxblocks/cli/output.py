"""How commands print JSON and notes, and the exit statuses other than success."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from flaxblocks.create.places import Choice
    from flaxblocks.create.report import LoadReport

__all__ = [
    "DEPARTS",
    "INTERRUPTED",
    "REFUSED",
    "left_of",
    "note",
    "note_what_was_taken",
    "print_json",
]

DEPARTS = 1  # `verify` and `selftest`: an error exceeds its bound; `doctor`: JAX is broken
REFUSED = 2  # any command: a wrong argument, file or setting
INTERRUPTED = 130  # any command: Ctrl-C


def print_json(data: Any) -> None:
    """Print data as JSON. Raises: ValueError for NaN and infinity, which JSON does not have."""
    click.echo(json.dumps(data, indent=2, allow_nan=False))


def note(text: str) -> None:
    """Print one line to stderr, which keeps stdout clean for the result."""
    click.echo(f"note: {text}", err=True)


def left_of(report: "LoadReport") -> tuple[str, ...]:
    """The names that were not loaded from a checkpoint, without random streams, which no prediction
    uses.
    """
    return tuple(name for name in report.left if not name.startswith("random streams "))


def note_what_was_taken(report: "LoadReport", choice: "Choice") -> None:
    """Note what was loaded from a checkpoint and what was not; nothing for a plain state dict, and
    nothing about random streams, which every folder of Flax's has.
    """
    for phrase in replace(report, left=left_of(report)).said:
        note(phrase)
    if report.others and not choice.is_made:
        note("--ema/--no-ema, --key or --prefix selects another network in the checkpoint")
