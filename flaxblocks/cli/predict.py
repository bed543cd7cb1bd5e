"""`flaxblocks predict`: image files to the most likely classes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flaxblocks.cli.options import Example, model_options, network_options
from flaxblocks.cli.output import note_what_was_taken, print_json
from flaxblocks.cli.progress import working

if TYPE_CHECKING:
    from flaxblocks.create.places import Choice
    from flaxblocks.create.report import LoadReport
    from flaxblocks.models.registry import ModelEntry

__all__ = ["predict_command"]


@click.command(
    "predict",
    cls=Example,
    example="flaxblocks predict cat.jpg --model mobilenet_v2 --weights DEFAULT",
)
@click.argument(
    "images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path)
)
@click.option("--model", "name", required=True, help="The model.")
@click.option(
    "--weights", required=True, help="Checkpoint file, or published weights such as IMAGENET1K_V2."
)
@click.option(
    "--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes to show."
)
@network_options
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict_command(
    images: tuple[Path, ...],
    entry: "ModelEntry",
    weights: str,
    choice: "Choice",
    top: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Classify images: the most likely classes of each, with their probabilities."""
    from flaxblocks.cli.classify import predict

    loaded: list[LoadReport] = []
    options |= {"top": top, "choice": choice, "tell": loaded.append}
    with working(f"classifying {len(images)} images"):
        results = predict(entry, weights, images, **options)
    for report in loaded:
        note_what_was_taken(report, choice)
    if as_json:
        print_json(results)
        return
    for result in results:
        click.echo(result["image"])
        for guess in result["top"]:
            click.echo(f"  {guess['probability']:7.2%}  {guess['class']}")
