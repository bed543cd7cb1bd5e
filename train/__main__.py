"""`python -m train`: see `python -m train --help`."""

import sys

import click

from train.config import Config
from train.flags import command_of

REFUSED = 2  # a setting, the data or the folder does not fit, or the disk does not take more
DIVERGED = 1


def _train(config: Config) -> None:
    from train.loop import run

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
    except click.ClickException as error:
        return _refuse(name, error.format_message(), REFUSED)
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _refuse(name, named, REFUSED)
    except ValueError as error:
        describe = getattr(error, "describe", None)
        return _refuse(name, describe(most=3) if describe else str(error), REFUSED)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:
        from train.loop import Diverged
        from train.stop import Stopped

        if isinstance(error, Stopped):
            return _refuse(name, str(error), error.code)
        if isinstance(error, Diverged):
            return _refuse(name, str(error), DIVERGED)
        raise
    return 0


def _refuse(name: str, sentence: str, status: int) -> int:
    click.echo(f"{name}: {' '.join(sentence.split())}", err=True)
    return status


if __name__ == "__main__":
    main()
