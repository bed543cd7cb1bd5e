"""`flaxblocks demo`: reproduce PyTorch's predictions without PyTorch."""

from pathlib import Path

import click

from flaxblocks.cli.options import Example
from flaxblocks.cli.output import print_json
from flaxblocks.cli.progress import working

__all__ = ["demo_command"]


@click.command("demo", cls=Example, example="flaxblocks demo --picture digits.png")
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    default=Path("flaxblocks-demo.png"),
    show_default=True,
    help="Image file to draw some of the digits to, overwritten if it exists. Needs matplotlib.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def demo_command(picture: Path, as_json: bool) -> None:
    """Classify handwritten digits with a bundled PyTorch checkpoint.

    Converts a network trained in PyTorch, runs it on 360 digits that it was not trained on, and
    prints how its predictions compare with PyTorch's stored ones. Does not need PyTorch.
    """
    from flaxblocks.demo.run import draw_digits, run_demo

    with working("converting, compiling, classifying"):
        result, digits, logits = run_demo()
    try:
        draw_digits(digits, logits, picture)
    except ModuleNotFoundError:
        drawn, note = None, "(with matplotlib installed, it would draw some of the digits too)"
    else:
        drawn, note = str(picture), f"some digits with both predictions: {picture}"
    if as_json:
        print_json({**result.as_dict(), "picture": drawn})
    else:
        click.echo(f"{result.describe()}\n  {note}")
