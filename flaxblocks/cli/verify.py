"""`flaxblocks verify`: compare a model with its PyTorch original."""

from typing import TYPE_CHECKING, Any

import click

from flaxblocks.cli.options import Example, model_options, network_options
from flaxblocks.cli.output import DEPARTS, note_what_was_taken, print_json
from flaxblocks.cli.progress import working

if TYPE_CHECKING:
    from flaxblocks.create.places import Choice
    from flaxblocks.create.report import LoadReport
    from flaxblocks.models.registry import ModelEntry

__all__ = ["verify_command"]


@click.command(
    "verify", cls=Example, example="flaxblocks verify mobilenet_v2 --size 97x131 --train --grad"
)
@click.argument("name")
@click.option(
    "--weights",
    metavar="FILE|NAME",
    help="Checkpoint file or the name of published weights; by default random weights with"
    " calibrated batch-norm statistics.",
)
@click.option(
    "--size", default="96", show_default=True, metavar="H[xW]", help="Image size in pixels."
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    default=2,
    show_default=True,
    help="Number of images.",
)
@click.option(
    "--train",
    is_flag=True,
    help="Run in training mode, with batch statistics, and compare the updated buffers.",
)
@click.option("--grad", is_flag=True, help="Also compare the gradient of every parameter.")
@click.option("--bfloat16", is_flag=True, help="Also compare in bfloat16.")
@click.option(
    "--whole",
    is_flag=True,
    help="Compile the model as users do, as a whole under one jax.jit with XLA's default options,"
    " and compare only output, buffers and gradients. Without this flag the compiled program also"
    " returns the output of every module, and XLA optimises it differently.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    default=0,
    show_default=True,
    help="Seed of the random weights and images.",
)
@click.option("--quiet", is_flag=True, help="Print the verdict without the table.")
@network_options
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify_command(
    entry: "ModelEntry",
    weights: str | None,
    choice: "Choice",
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Compare model NAME with its PyTorch original, module by module.

    Runs both on the same images in float64 and float32, and prints the relative errors. The exit
    status is 1 if an error exceeds its bound. Needs torch and either torchvision or timm:
    pip install 'flaxblocks[torch]'.
    """
    from flaxblocks.cli.settings import read_size
    from flaxblocks.parity.verify import verify

    options["size"] = read_size(options["size"])
    if weights is None and (choice.is_made or choice.drop):
        raise click.UsageError(
            "--key, --prefix, --ema and --drop select from a checkpoint: give --weights"
        )
    loaded: list[LoadReport] = []
    with working(f"comparing {entry.name} with {entry.source}'s"):
        report = verify(entry, weights=weights, choice=choice, tell=loaded.append, **options)
    for of_loading in loaded:
        note_what_was_taken(of_loading, choice)
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo(report.summary() if quiet else str(report))
        click.echo(f"{entry.name}: {'every bound holds' if report.ok else 'a bound is exceeded'}")
    return 0 if report.ok else DEPARTS
