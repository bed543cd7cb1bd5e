"""`flaxblocks selftest`: compare this machine's results with PyTorch's stored ones."""

import click

from flaxblocks.cli.options import Example
from flaxblocks.cli.output import DEPARTS, print_json

__all__ = ["selftest_command"]


@click.command("selftest", cls=Example, example="flaxblocks selftest 'mobilenet*'")
@click.argument("pattern", default="*")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Test every network in every mode of execution and every precision.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def selftest_command(pattern: str, everything: bool, as_json: bool) -> int:
    """Compare this machine's results with stored results of PyTorch.

    Runs the models and blocks whose names match PATTERN on this device with this jaxlib. Their
    weights and images are computed by a formula, and PyTorch's outputs for them come with the
    package, so PyTorch is not needed. The bound on the relative error is 1e-12 in float64 (1e-10
    for gradients), and twice PyTorch's own error in float32 and bfloat16 (ten times in training
    mode). The exit status is 1 if an error exceeds its bound.
    """
    from flaxblocks.parity.selftest import selftest

    report = selftest(pattern, everything=everything)
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo(str(report))
    return 0 if report.ok else DEPARTS
