"""What commands share: help with an example, the options that say which model is meant, and what
is said of a mistake.
"""

import functools
from collections.abc import Callable
from typing import Any

import click

__all__ = ["MISTAKES", "Example", "model_options", "network_options", "sentence_of"]


class Example(click.Command):
    """A command whose help ends in an example, printed as it stands."""

    def __init__(self, *args: Any, example: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example."""
        with formatter.section("Example"):
            formatter.write_text(f"$ {self.example}")


# What becomes one sentence and exit status 2; anything else is a bug and shows its traceback.
MISTAKES = (click.ClickException, OSError, ValueError, MemoryError)


def sentence_of(mistake: Exception) -> str:
    """One of `MISTAKES` as one line for a person."""
    if isinstance(mistake, click.ClickException):
        text = mistake.format_message()
    elif isinstance(mistake, MemoryError):
        text = f"there is not enough memory: {mistake}"
    elif isinstance(mistake, OSError) and mistake.filename:
        text = f"{mistake.filename}: {mistake.strerror}"
    else:
        describe = getattr(mistake, "describe", None)
        text = describe(most=3) if describe else str(mistake)
    return " ".join(text.split())


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
        from flaxblocks.cli.settings import read_settings
        from flaxblocks.models.registry import find_model

        entry = find_model(name)
        width = () if width_mult is None else (f"width_mult={width_mult}",)
        config = read_settings(entry, [*width, *settings])
        return command(*args, entry=entry, config=config, **kwargs)

    return wrapper


def network_options(command: Callable) -> Callable:
    """The options that say which network of a checkpoint is meant, as `choice`, a `Choice`."""

    @click.option(
        "--key",
        metavar="KEY",
        help="The state dict to take, such as model_ema; dotted where it lies deeper.",
    )
    @click.option(
        "--prefix",
        metavar="PREFIX",
        help="What the network's names begin with, such as backbone.; found by itself where only"
        " one network has the model's names.",
    )
    @click.option(
        "--ema/--no-ema",
        default=None,
        help="Take averaged weights, or the raw ones; averaged ones by default, if there are any.",
    )
    @click.option(
        "--drop",
        multiple=True,
        metavar="NAME",
        help="Leave out this name and all below it, or what a pattern such as '*.num_updates'"
        " matches. May be given more than once.",
    )
    @functools.wraps(command)
    def wrapper(
        *args: Any,
        key: str | None,
        prefix: str | None,
        ema: bool | None,
        drop: tuple[str, ...],
        **kwargs: Any,
    ) -> Any:
        from flaxblocks.create.places import Choice

        return command(*args, choice=Choice(key, prefix, ema, drop), **kwargs)

    return wrapper
