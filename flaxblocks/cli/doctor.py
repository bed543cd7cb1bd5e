"""`flaxblocks doctor`: check the installation."""

import click

from flaxblocks.cli.options import Example
from flaxblocks.cli.output import DEPARTS, print_json

__all__ = ["doctor_command"]


@click.command("doctor", cls=Example, example="flaxblocks doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(as_json: bool) -> int:
    """Check the installation: versions, devices, settings, faults.

    Tells how to fix whatever is wrong or missing. If the installed jaxlib has a known fault, a
    small program tests whether it occurs on this machine. The exit status is 1 if JAX computes
    wrong results here or does not work at all; anything else missing is only noted.
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
