"""`flaxblocks selftest`: this machine against what PyTorch computed elsewhere."""

import click

from flaxblocks.cli.options import Example
from flaxblocks.cli.output import DEPARTS, print_json

__all__ = ["selftest_command"]


@click.command("selftest", cls=Example, example="flaxblocks selftest 'mobilenet*'")
@click.argument("pattern", default="*")
@click.option("--all", "everything", is_flag=True, help="Every network in every way and precision.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def selftest_command(pattern: str, everything: bool, as_json: bool) -> int:
    """Hold this device and this jaxlib against what PyTorch computed. Exit status 1 if a bound is
    broken.

    Runs models and blocks whose name matches PATTERN with weights and images that arithmetic alone
    makes; PyTorch's answers to them come with the package, and PyTorch is not needed. In float64
    the bound is 1e-12 (gradients 1e-10), in float32 and bfloat16 twice PyTorch's own error.
    """
    from flaxblocks.parity.selftest import selftest

    report = selftest(pattern, everything=everything)
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo(str(report))
    return 0 if report.ok else DEPARTS
