"""`python -m train`: see `python -m train --help`."""

import signal
import sys

import click

from train.settings.config import Config
from train.settings.flags import command_of

REFUSED = 2  # a setting, the data or the folder does not fit, or the disk does not take more
DIVERGED = 1
INTERRUPTED = 130


def _train(config: Config) -> None:
    from train.run.loop import run

    run(config)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; leave with one sentence on stderr for what cannot be done."""
    command = command_of(
        _train,
        help="Train an image classifier, or fine-tune one with --weights; run again, the same "
        "command goes on where it was. A setting comes from its flag, else from --config, else "
        "from --recipe.",
    )
    sys.exit(guarded(command, arguments))


def guarded(command: click.Command, arguments: list[str] | None, name: str = "train") -> int:
    """Run a command and return its exit status; mistakes become one sentence on stderr."""
    try:
        module = "train" if name == "train" else f"train.{name}"
        command.main(arguments, prog_name=f"python -m {module}", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:
        from flaxblocks.cli.options import MISTAKES, sentence_of  # imports JAX, as do these
        from train.run.loop import Diverged
        from train.run.stop import Stopped

        if not isinstance(error, (*MISTAKES, Diverged, Stopped)):
            raise
        click.echo(f"{name}: {sentence_of(error)}", err=True)
        return {Diverged: DIVERGED, Stopped: getattr(error, "code", 0)}.get(type(error), REFUSED)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while it imports there is nothing to save
    main()
