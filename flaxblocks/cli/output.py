"""What commands print beside their result, and the exit statuses that are no bare success."""

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

DEPARTS = 1  # exit status of `verify` and `selftest` if a bound is broken, of `doctor` if JAX is
REFUSED = 2  # of every command for a wrong argument, file or setting
INTERRUPTED = 130


def print_json(data: Any) -> None:
    """Print data as JSON, and NaN not at all: it is none of JSON's numbers."""
    click.echo(json.dumps(data, indent=2, allow_nan=False))


def note(text: str) -> None:
    """Print one line to stderr, where it is in nobody's way."""
    click.echo(f"note: {text}", err=True)


def left_of(report: "LoadReport") -> tuple[str, ...]:
    """What was left of a checkpoint but random streams, which no prediction uses."""
    return tuple(name for name in report.left if not name.startswith("random streams "))


def note_what_was_taken(report: "LoadReport", choice: "Choice") -> None:
    """Say what of a checkpoint was taken and what was left; nothing for a plain state dict, nor of
    random streams, which every folder of Flax's has.
    """
    for phrase in replace(report, left=left_of(report)).said:
        note(phrase)
    if report.others and not choice.is_made:
        note("--ema/--no-ema, --key or --prefix chooses another network of the checkpoint")
