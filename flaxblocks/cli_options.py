"""What the subcommands of `flaxblocks` share: help with an example, and the options that say which
model is meant.
"""

import functools
from collections.abc import Callable
from typing import Any

import click

from flaxblocks.registry import find_model

__all__ = ["Example", "model_options"]


class Example(click.Command):
    """A command whose help ends in an example, printed as it stands."""

    def __init__(self, *args: Any, example: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example."""
        with formatter.section("Example"):
            formatter.write_text(f"$ {self.example}")


def model_options(command: Callable) -> Callable:
    """The options that say which model is meant: its registry row as `entry`, the rest as dict
    `config`.
    """

    @click.option(
        "--num-classes",
        type=click.IntRange(min=0),
        help="Logits; by default what the weights have, or 1000.",
    )
    @click.option(
        "--in-channels",
        type=click.IntRange(min=1),
        default=3,
        show_default=True,
        help="Image channels.",
    )
    @click.option("--width-mult", metavar="NUMBER", help="Scales every width.")
    @click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="Any further argument of the model; VALUE is JSON or a word.",
    )
    @functools.wraps(command)
    def wrapper(
        *args: Any, name: str, width_mult: str | None, settings: tuple[str, ...], **kwargs: Any
    ) -> Any:
        import flaxblocks.models  # noqa: F401
        from flaxblocks.settings import read_settings

        entry = find_model(name)
        width = () if width_mult is None else (f"width_mult={width_mult}",)
        config = read_settings(entry, [*width, *settings])
        return command(*args, entry=entry, config=config, **kwargs)

    return wrapper
