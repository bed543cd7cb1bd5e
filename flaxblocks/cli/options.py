"""What the commands share: an example in the help, the options that select a model and a network
in a checkpoint, and the text of an error message.
"""

import functools
from collections.abc import Callable
from typing import Any

import click

__all__ = ["MISTAKES", "Example", "model_options", "network_options", "sentence_of"]


class Example(click.Command):
    """A command whose help ends with an example."""

    def __init__(self, *args: Any, example: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example after the options."""
        with formatter.section("Example"):
            formatter.write_text(f"$ {self.example}")


# Errors that become one sentence and exit status 2; any other is a bug and shows its traceback.
MISTAKES = (click.ClickException, OSError, ValueError, MemoryError)


def sentence_of(mistake: Exception) -> str:
    """An error of one of the types in `MISTAKES` as one readable line."""
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
    """Add the options that configure a model.

    The command receives the registry row of `name` as `entry`, and the values of `--width-mult` and
    `--set` as the dict `config`.
    """

    @click.option(
        "--num-classes",
        type=click.IntRange(min=0),
        metavar="N",
        help="Number of classes, 0 for a model without a head; by default that of the weights, or"
        " 1000 without weights.",
    )
    @click.option(
        "--in-channels",
        type=click.IntRange(min=1),
        metavar="N",
        default=3,
        show_default=True,
        help="Number of input channels.",
    )
    @click.option("--width-mult", metavar="NUMBER", help="Multiplier of the width of every layer.")
    @click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="Any other argument of the model; VALUE is JSON or a bare word. May be repeated.",
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
    """Add the options that select a network in a checkpoint, which the command receives as the
    `Choice` `choice`.
    """

    @click.option(
        "--key",
        metavar="KEY",
        help="Key of the state dict in the checkpoint, such as model_ema; a dotted path if nested.",
    )
    @click.option(
        "--prefix",
        metavar="PREFIX",
        help="Prefix of the network's parameter names, such as backbone; found automatically if"
        " only one network in the checkpoint has the model's names.",
    )
    @click.option(
        "--ema/--no-ema",
        default=None,
        help="Load the averaged (EMA) weights or the raw ones; by default the averaged ones if the"
        " checkpoint has them.",
    )
    @click.option(
        "--drop",
        multiple=True,
        metavar="NAME",
        help="Ignore the parameter or module of this name with all below it, or all names that"
        " match a pattern such as '*.num_updates'. May be repeated.",
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
