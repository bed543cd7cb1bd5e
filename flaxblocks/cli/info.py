"""`flaxblocks info`: the stages of a model, as a table and as a diagram."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flaxblocks.cli.options import Example, model_options
from flaxblocks.cli.output import print_json
from flaxblocks.cli.progress import working

if TYPE_CHECKING:
    from flaxblocks.models.registry import ModelEntry

__all__ = ["info_command"]


@click.command(
    "info", cls=Example, example="flaxblocks info mobilenet_v2 --width-mult 0.5 --size 160"
)
@click.argument("name")
@click.option(
    "--size", default="224", show_default=True, metavar="H[xW]", help="Image size in pixels."
)
@click.option(
    "--draw",
    "picture",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Also draw the stages and each kind of block to this SVG file, overwritten if it exists.",
)
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info_command(
    entry: "ModelEntry",
    size: str,
    picture: Path | None,
    num_classes: int | None,
    in_channels: int,
    config: dict[str, Any],
    as_json: bool,
) -> None:
    """Show model NAME's stages: shapes, parameters, multiply-adds."""
    from dataclasses import asdict

    from flaxblocks.cli.settings import read_size
    from flaxblocks.create.build import abstract_model
    from flaxblocks.inspect.summary import count_parameters, summarize, table

    height, width = read_size(size)
    if picture is not None and picture.suffix != ".svg":
        raise ValueError(f"--draw {str(picture)!r} must end in .svg")
    classes = 1000 if num_classes is None else num_classes
    with working(f"building {entry.name} without its numbers"):
        model = abstract_model(entry.name, num_classes=classes, in_channels=in_channels, **config)
        rows = summarize(model, (height, width), in_channels)
        if picture is not None:
            from flaxblocks.inspect.draw import draw_model

            picture.write_text(draw_model(model, (height, width)), encoding="utf-8")
    parameters, multiply_adds = count_parameters(model), sum(row.multiply_adds for row in rows)
    if as_json:
        stages = [asdict(row) for row in rows]
        print_json({"parameters": parameters, "multiply_adds": multiply_adds, "stages": stages})
        return
    click.echo(table(rows))
    counts = f"{parameters:,} parameters, {multiply_adds:,} multiply-adds"
    click.echo(f"{entry.name} at {height}x{width}: {counts}")
