"""`flaxblocks convert`: convert a checkpoint file between layouts and formats."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flaxblocks.cli.options import Example, model_options, network_options
from flaxblocks.cli.output import note, note_what_was_taken
from flaxblocks.cli.progress import working

if TYPE_CHECKING:
    from flaxblocks.create.places import Choice
    from flaxblocks.models.registry import ModelEntry

__all__ = ["convert_command"]


@click.command(
    "convert",
    cls=Example,
    example="flaxblocks convert mobilenet_v2.pth flax.safetensors --model mobilenet_v2",
)
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--model", "name", required=True, metavar="NAME", help="Name of the model that IN belongs to."
)
@click.option(
    "--to",
    "format",
    metavar="FORMAT",
    help="File format of OUT, such as safetensors, pth or orbax; by default given by OUT's suffix.",
)
@click.option(
    "--layout",
    "--dialect",
    "layout",
    metavar="NAME",
    default="auto",
    show_default=True,
    help="Library whose parameter names OUT uses: torchvision, timm, flax, or another that the"
    " model supports (official, article). auto converts PyTorch names to Flax's and Flax names to"
    " PyTorch's.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@network_options
@model_options
def convert_command(
    source: Path,
    target: Path,
    entry: "ModelEntry",
    format: str | None,
    layout: str,
    overwrite: bool,
    num_classes: int | None,
    in_channels: int,
    config: dict[str, Any],
    choice: "Choice",
) -> None:
    """Convert checkpoint IN to OUT, from PyTorch to Flax or back.

    Reads and writes PyTorch files without PyTorch.
    """
    from flaxblocks.create.convert_file import convert_file
    from flaxblocks.create.other_settings import other_settings

    config = {"in_channels": in_channels, **config}
    if num_classes is not None:
        config["num_classes"] = num_classes
    with working(f"converting {source}"):
        how = {"format": format, "layout": layout, "overwrite": overwrite}
        done = convert_file(source, target, entry, config, choice=choice, **how)
    note_what_was_taken(done.report, choice)
    click.echo(
        f"{target}: {done.arrays} arrays, {done.bytes / 1e6:.1f} MB, "
        f"{done.source_layout} -> {done.layout} ({done.format})"
    )
    difference = other_settings(done.entry, done.layout)
    if difference is not None:
        note(f"{difference}: the same weights give other results there")
    elif done.report.settings:
        note(f"{target} does not say so itself: build its model in the same way")
