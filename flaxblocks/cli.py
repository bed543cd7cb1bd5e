"""The `flaxblocks` command. Each subcommand reads its arguments, calls the library and prints;
nothing else.
"""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from flaxblocks.registry import find_model

__all__ = ["main"]

DEPARTS = 1  # exit status of `verify` when a bound is broken
REFUSED = 2  # of every command for a wrong argument, file or setting


class Example(click.Command):
    """A command whose help ends in an example, printed as it stands."""

    def __init__(self, *args: Any, example: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example."""
        with formatter.section("Example"):
            formatter.write_text(f"$ {self.example}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0, 1 where parity fails, 2 with one sentence on stderr for a
    mistake.
    """
    try:
        status = commands(arguments, prog_name="flaxblocks", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        _refuse(error.format_message())
    except BrokenPipeError:  # `flaxblocks list | head` is no error
        sys.stderr.close()
        sys.exit(0)
    except (ValueError, OSError) as error:
        describe = getattr(error, "describe", None)
        _refuse(describe(most=3) if describe else str(error))
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def _refuse(sentence: str) -> None:
    click.echo(f"flaxblocks: {' '.join(sentence.split())}", err=True)
    sys.exit(REFUSED)


def model_options(command: Callable) -> Callable:
    """The options that say which configuration of a model is meant, as one dict `config`."""

    @click.option(
        "--num-classes",
        type=click.IntRange(min=0),
        help="Logits; by default what the weights have, or 1000.",
    )
    @click.option(
        "--in-channels",
        type=click.IntRange(min=1),
        default=3,
        show_default=True,
        help="Image channels.",
    )
    @click.option("--width-mult", type=float, help="Scales every width.")
    @click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="Any further argument of the model.",
    )
    @functools.wraps(command)
    def wrapper(*args: Any, width_mult: float | None, settings: tuple[str, ...], **kwargs: Any):
        config: dict[str, Any] = {} if width_mult is None else {"width_mult": width_mult}
        for setting in settings:
            name, equals, value = setting.partition("=")
            if not equals:
                raise click.UsageError(f"--set {setting!r} must be NAME=VALUE")
            try:
                config[name] = json.loads(value)
            except json.JSONDecodeError:
                config[name] = value
        return command(*args, config=config, **kwargs)

    return wrapper


@click.group()
@click.version_option(package_name="flaxblocks")
def commands() -> None:
    """PyTorch CNNs in Flax NNX, proven identical."""


@commands.command("list", cls=Example, example="flaxblocks list 'mobilenet*'")
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(pattern: str, as_json: bool) -> None:
    """List the models whose name matches PATTERN, with their published sizes and weights."""
    import flaxblocks.models  # noqa: F401
    from flaxblocks.registry import list_models
    from flaxblocks.weights import list_weights

    rows = []
    for name in list_models(pattern):
        entry = find_model(name)
        tags = [weights.tag for weights in list_weights(name)]
        rows.append(
            {"name": name, "parameters": entry.parameters, "source": entry.source, "weights": tags}
        )
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        raise click.UsageError(
            f"PATTERN {pattern!r} matches no model; `flaxblocks list` shows them all"
        )
    for row in rows:
        parameters = f"{row['parameters'] / 1e6:.2f} M" if row["parameters"] else "-"
        click.echo(
            f"{row['name']:20} {parameters:>9}  {row['source']:12} {', '.join(row['weights'])}"
        )


@commands.command(
    "info", cls=Example, example="flaxblocks info mobilenet_v2 --width-mult 0.5 --size 160"
)
@click.argument("name")
@click.option(
    "--size", default="224", show_default=True, metavar="H[xW]", help="Image size in pixels."
)
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info_command(
    name: str, size: str, num_classes: int | None, in_channels: int, config: dict, as_json: bool
) -> None:
    """Show the stages of model NAME: output shapes, parameters, multiply-adds."""
    from dataclasses import asdict

    from flaxblocks.create import abstract_model
    from flaxblocks.summary import count_parameters, summarize

    height, width = _size(size)
    classes = 1000 if num_classes is None else num_classes
    model = abstract_model(name, num_classes=classes, in_channels=in_channels, **config)
    rows = summarize(model, (height, width), in_channels)
    parameters, multiply_adds = count_parameters(model), sum(row.multiply_adds for row in rows)
    if as_json:
        stages = [asdict(row) for row in rows]
        click.echo(
            json.dumps(
                {"parameters": parameters, "multiply_adds": multiply_adds, "stages": stages},
                indent=2,
            )
        )
        return
    click.echo(
        f"{'stage':14} {'module':14} {'output':>16} {'parameters':>12} {'multiply-adds':>15}"
    )
    for row in rows:
        shape = "x".join(map(str, row.shape))
        click.echo(
            f"{row.name:14} {row.kind:14} {shape:>16} "
            f"{row.parameters:>12,} {row.multiply_adds:>15,}"
        )
    click.echo(
        f"{name} at {height}x{width}: {parameters:,} parameters, {multiply_adds:,} multiply-adds"
    )


@commands.command(
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
    type=click.Choice(["safetensors", "pth", "orbax"]),
    help="Format; by OUT's suffix.",
)
@click.option(
    "--dialect",
    default="auto",
    show_default=True,
    help="Layout to write: torchvision, timm, flax; auto turns PyTorch's into Flax's and back.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is there.")
@model_options
def convert_command(
    source: Path,
    target: Path,
    name: str,
    format: str | None,
    dialect: str,
    overwrite: bool,
    num_classes: int | None,
    in_channels: int,
    config: dict,
) -> None:
    """Turn checkpoint IN into OUT: PyTorch's layout into Flax's, or Flax's into PyTorch's, without
    torch.
    """
    from flaxblocks.convert.convert import as_arrays
    from flaxblocks.convert.files import convert_file
    from flaxblocks.create import abstract_model, head_classes

    entry = find_model_of(name)
    config = {"in_channels": in_channels, **config}
    if num_classes is None:
        classes = head_classes(entry, config, as_arrays(source))
        num_classes = 0 if classes is None else classes
    module = abstract_model(name, num_classes=num_classes, **config)
    done = convert_file(source, target, module, format=format, dialect=dialect, overwrite=overwrite)
    click.echo(
        f"{target}: {done.arrays} arrays, {done.bytes / 1e6:.1f} MB, "
        f"{done.source_dialect} -> {done.dialect} ({done.format})"
    )


@commands.command(
    "verify", cls=Example, example="flaxblocks verify mobilenet_v2 --size 97x131 --train --grad"
)
@click.argument("name")
@click.option(
    "--weights", help="Checkpoint file or published weights; random calibrated ones unless given."
)
@click.option(
    "--size", default="96", show_default=True, metavar="H[xW]", help="Image size in pixels."
)
@click.option("--batch", type=click.IntRange(min=1), default=2, show_default=True, help="Images.")
@click.option("--train", is_flag=True, help="Normalise by the batch; compare the updated buffers.")
@click.option("--grad", is_flag=True, help="Compare the gradient of every parameter.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the random weights and images."
)
@click.option("--quiet", is_flag=True, help="Print the verdict without the table.")
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify_command(name: str, as_json: bool, quiet: bool, **options: Any) -> int:
    """Hold model NAME against its PyTorch original, module by module. Exit status 1 if a bound is
    broken.

    Needs torch, and torchvision or timm: pip install 'flaxblocks[torch]'.
    """
    from flaxblocks.parity.verify import verify

    options["size"] = _size(options["size"])
    report = verify(find_model_of(name), **options)
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2))
    else:
        click.echo(report.summary() if quiet else str(report))
        click.echo(f"{name}: {'every bound holds' if report.ok else 'a bound is broken'}")
    return 0 if report.ok else DEPARTS


@commands.command(
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
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict_command(
    images: tuple[Path, ...], name: str, weights: str, top: int, as_json: bool, **options: Any
) -> None:
    """Classify images: the most likely classes of each, with their probabilities."""
    from flaxblocks.predict import predict

    results = predict(find_model_of(name), weights, images, top=top, **options)
    if as_json:
        click.echo(json.dumps(results, indent=2))
        return
    for result in results:
        click.echo(result["image"])
        for guess in result["top"]:
            click.echo(f"  {guess['probability']:7.2%}  {guess['class']}")


@commands.command("demo", cls=Example, example="flaxblocks demo --picture digits.png")
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    default=Path("flaxblocks-demo.png"),
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def demo_command(picture: Path, as_json: bool) -> None:
    """Classify 360 handwritten digits by a PyTorch checkpoint that comes with the package, without
    PyTorch.
    """
    from flaxblocks.demo.run import draw_digits, run_demo

    result, digits, logits = run_demo()
    if as_json:
        click.echo(json.dumps(result.as_dict(), indent=2))
        return
    click.echo(result.describe())
    try:
        draw_digits(digits, logits, picture)
    except ModuleNotFoundError:
        click.echo("  (with matplotlib installed it would draw some of them too)")
    else:
        click.echo(f"  some of them, with both answers: {picture}")


def find_model_of(name: str):
    """The registry row of a model name, all families registered."""
    import flaxblocks.models  # noqa: F401

    return find_model(name)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    try:
        size = int(height), int(width or height)
    except ValueError:
        size = (0, 0)
    if min(size) < 1:
        raise click.UsageError(f"--size {text!r} must be pixels, as 224 or 160x224")
    return size
