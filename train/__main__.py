"""The command `python -m train`; `python -m train --help` lists its settings."""

import signal
import sys

import click

from train.settings.config import Config
from train.settings.flags import command_of

REFUSED = 2  # wrong settings, data or folder, or a full disk
DIVERGED = 1
INTERRUPTED = 130


def _train(config: Config) -> None:
    from train.run.loop import run

    run(config)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; an error is one sentence on stderr."""
    command = command_of(
        _train,
        help="Train an image classifier, or fine-tune the one given by --weights. Running the "
        "same command again resumes the run. Each setting is taken from its flag, else from "
        "--config, else from --recipe, else from its default.",
    )
    sys.exit(guarded(command, arguments))


def guarded(command: click.Command, arguments: list[str] | None, name: str = "train") -> int:
    """Run a command and return its exit status; a user's mistake becomes one sentence on stderr."""
    try:
        module = "train" if name == "train" else f"train.{name}"
        command.main(arguments, prog_name=f"python -m {module}", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:
        from flaxblocks.cli.options import MISTAKES, sentence_of  # late: these import JAX
        from train.run.loop import Diverged
        from train.run.stop import Stopped

        if not isinstance(error, (*MISTAKES, Diverged, Stopped)):
            raise
        click.echo(f"{name}: {sentence_of(error)}", err=True)
        return {Diverged: DIVERGED, Stopped: getattr(error, "code", 0)}.get(type(error), REFUSED)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # during imports there is nothing to save
    main()
