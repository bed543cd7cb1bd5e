"""`flaxblocks doctor`: what is installed, and what is wrong with it."""

import click

from flaxblocks.cli.options import Example
from flaxblocks.cli.output import DEPARTS, print_json

__all__ = ["doctor_command"]


@click.command("doctor", cls=Example, example="flaxblocks doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(as_json: bool) -> int:
    """Show versions, devices and settings, what is wrong or missing, and the remedies.

    A known fault of the installed jaxlib is tried out. Exit status 1 where JAX computes wrongly
    here, or not at all; whatever else is missing is a note.
    """
    from dataclasses import asdict

    from flaxblocks.inspect.installation.probes import diagnose

    findings = []
    for finding in diagnose():
        findings.append(finding)
        if not as_json:
            click.echo(str(finding))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    return DEPARTS if any(finding.status == "bad" for finding in findings) else 0
