"""`flaxblocks predict`: classify image files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flaxblocks.cli.options import Example, model_options, network_options
from flaxblocks.cli.output import note, note_what_was_taken, print_json
from flaxblocks.cli.progress import working

if TYPE_CHECKING:
    from flaxblocks.cli.class_names import ClassNames
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
@click.option("--model", "name", required=True, metavar="NAME", help="Name of the model.")
@click.option(
    "--weights",
    required=True,
    metavar="FILE|NAME",
    help="Checkpoint file, or the name of published weights such as IMAGENET1K_V2.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    metavar="N",
    default=5,
    show_default=True,
    help="Number of classes to show.",
)
@click.option(
    "--classes",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Text file with one class name per line; by default classes.txt next to the weights.",
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
    """Classify images: show the most likely classes of each.

    Each class is shown with its probability. Images are preprocessed as the weights require.
    """
    from flaxblocks.cli.classify import predict

    loaded: list[tuple[LoadReport, ClassNames]] = []

    def tell(report: "LoadReport", names: "ClassNames") -> None:
        loaded.append((report, names))

    options |= {"top": top, "choice": choice, "tell": tell}
    with working(f"classifying {len(images)} images"):
        results = predict(entry, weights, images, **options)
    ((report, names),) = loaded
    note_what_was_taken(report, choice)
    if names.said and (names.names or not as_json):  # how to name them is a word for people
        note(names.said)
    if as_json:
        print_json(results)
        return
    for result in results:
        click.echo(result["image"])
        for guess in result["top"]:
            name = guess["class"] if names.names else f"class {guess['index']}"
            click.echo(f"  {guess['probability']:7.2%}  {name}")
