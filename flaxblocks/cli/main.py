"""The `flaxblocks` command: the group of its subcommands, and their exit statuses.

Each subcommand is one file that only reads its arguments, calls the library and prints. It imports
the library when it runs, so that `--help` does not wait for JAX to load.
"""

import sys

import click

from flaxblocks.cli.convert import convert_command
from flaxblocks.cli.demo import demo_command
from flaxblocks.cli.doctor import doctor_command
from flaxblocks.cli.info import info_command
from flaxblocks.cli.list_models import list_command
from flaxblocks.cli.options import MISTAKES, sentence_of
from flaxblocks.cli.output import INTERRUPTED, REFUSED
from flaxblocks.cli.predict import predict_command
from flaxblocks.cli.selftest import selftest_command
from flaxblocks.cli.shell_words import in_shell_words
from flaxblocks.cli.verify import verify_command

__all__ = ["commands", "main"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with a status.

    The status is 0 on success, 1 if the computed numbers are wrong, 2 with one sentence on stderr
    for a wrong argument, file or setting, and 130 if interrupted.
    """
    try:
        status = commands(arguments, prog_name="flaxblocks", standalone_mode=False)
    except MISTAKES as error:
        click.echo(f"flaxblocks: {in_shell_words(sentence_of(error))}", err=True)
        sys.exit(REFUSED)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)


@click.group(invoke_without_command=True)
@click.version_option(package_name="flaxblocks")
@click.pass_context
def commands(context: click.Context) -> None:
    """PyTorch CNNs in Flax NNX, proven identical."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (
    list_command,
    info_command,
    convert_command,
    verify_command,
    predict_command,
    demo_command,
    selftest_command,
    doctor_command,
):
    commands.add_command(command)
