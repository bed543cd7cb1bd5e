"""`flaxblocks convert`: checkpoint files from one layout and format to another."""

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
@click.option("--model", "name", required=True, help="Whose checkpoint IN is.")
@click.option(
    "--to",
    "format",
    metavar="FORMAT",
    help="Format, such as safetensors, pth or orbax; by default that of OUT's suffix.",
)
@click.option(
    "--layout",
    "--dialect",
    "layout",
    default="auto",
    show_default=True,
    help="Layout to write: torchvision, timm, flax, or what else the model has (official, article);"
    " auto turns PyTorch's into Flax's and back.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is there.")
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
    """Turn checkpoint IN into OUT: PyTorch's layout into Flax's, or Flax's into PyTorch's, without
    torch.
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
