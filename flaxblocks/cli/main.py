"""The `flaxblocks` command. Each subcommand reads its arguments, calls the library and prints;
nothing else.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from flaxblocks.cli.options import MISTAKES, Example, model_options, sentence_of
from flaxblocks.cli.progress import working
from flaxblocks.models.registry import ModelEntry, find_model

__all__ = ["main"]

DEPARTS = 1  # exit status of `verify` and `selftest` if a bound is broken, of `doctor` if JAX is
REFUSED = 2  # of every command for a wrong argument, file or setting
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0, 1 where numbers are wrong, 2 with one sentence on stderr
    for a mistake.
    """
    try:
        status = commands(arguments, prog_name="flaxblocks", standalone_mode=False)
    except MISTAKES as error:
        click.echo(f"flaxblocks: {sentence_of(error)}", err=True)
        sys.exit(REFUSED)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)


def _print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, allow_nan=False))


@click.group(invoke_without_command=True)
@click.version_option(package_name="flaxblocks")
@click.pass_context
def commands(context: click.Context) -> None:
    """PyTorch CNNs in Flax NNX, proven identical."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@commands.command("list", cls=Example, example="flaxblocks list 'mobilenet*'")
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(pattern: str, as_json: bool) -> None:
    """List the models whose name matches PATTERN, with their published sizes and weights."""
    import flaxblocks.models  # noqa: F401
    from flaxblocks.models.registry import list_models
    from flaxblocks.weights import list_weights

    rows = []
    for name in list_models(pattern):
        entry, tags = find_model(name), [weights.tag for weights in list_weights(name)]
        rows.append(
            {"name": name, "parameters": entry.parameters, "source": entry.source, "weights": tags}
        )
    if not rows:
        raise click.UsageError(
            f"PATTERN {pattern!r} matches no model; `flaxblocks list` shows them all"
        )
    if as_json:
        _print_json(rows)
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        parameters = f"{row['parameters'] / 1e6:.2f} M" if row["parameters"] else "-"
        tags = ", ".join(row["weights"])
        click.echo(f"{row['name']:{width}} {parameters:>9}  {row['source']:12} {tags}".rstrip())


@commands.command(
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
    help="Also draw the stages and the kinds of blocks as this SVG file; replaced if it is there.",
)
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info_command(
    entry: ModelEntry,
    size: str,
    picture: Path | None,
    num_classes: int | None,
    in_channels: int,
    config: dict,
    as_json: bool,
) -> None:
    """Show the stages of model NAME: output shapes, parameters, multiply-adds."""
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
        _print_json({"parameters": parameters, "multiply_adds": multiply_adds, "stages": stages})
        return
    click.echo(table(rows))
    counts = f"{parameters:,} parameters, {multiply_adds:,} multiply-adds"
    click.echo(f"{entry.name} at {height}x{width}: {counts}")


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
    "--layout",
    "--dialect",
    "layout",
    default="auto",
    show_default=True,
    help="Layout to write: torchvision, timm, flax, or what else the model has (official, article);"
    " auto turns PyTorch's into Flax's and back.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is there.")
@model_options
def convert_command(
    source: Path,
    target: Path,
    entry: ModelEntry,
    format: str | None,
    layout: str,
    overwrite: bool,
    num_classes: int | None,
    in_channels: int,
    config: dict,
) -> None:
    """Turn checkpoint IN into OUT: PyTorch's layout into Flax's, or Flax's into PyTorch's, without
    torch.
    """
    from flaxblocks.convert.keymap import NATIVE
    from flaxblocks.create.build import abstract_model, read_as
    from flaxblocks.create.convert_file import convert_file
    from flaxblocks.create.other_settings import other_settings

    config = {"in_channels": in_channels, **config}
    row = entry

    def build(arrays: Mapping[str, Any]) -> Any:
        nonlocal row
        found = read_as(entry, config, arrays)
        row = found.entry
        classes = found.num_classes if num_classes is None else num_classes
        return abstract_model(found.entry.name, num_classes=classes or 0, **config)

    with working(f"converting {source}"):
        how = {"format": format, "layout": layout, "overwrite": overwrite}
        done = convert_file(source, target, build, **how)
    click.echo(
        f"{target}: {done.arrays} arrays, {done.bytes / 1e6:.1f} MB, "
        f"{done.source_layout} -> {done.layout} ({done.format})"
    )
    difference = other_settings(row, done.layout)
    if difference is not None:
        click.echo(f"note: {difference}: the same weights give other results there", err=True)
    elif done.layout == NATIVE and row.settings != entry.settings:
        difference = other_settings(entry, done.source_layout)
        click.echo(f"note: {difference}: load {target} as {row.name}", err=True)


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
@click.option("--bfloat16", is_flag=True, help="Run in bfloat16 too.")
@click.option(
    "--whole",
    is_flag=True,
    help="Run the program that users run: the whole model under one jax.jit with XLA's default"
    " options, which gives the output, buffers and gradients alone. Without it ours runs as a"
    " program that gives every module's output too, which XLA compiles otherwise.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of the random weights and images.",
)
@click.option("--quiet", is_flag=True, help="Print the verdict without the table.")
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify_command(entry: ModelEntry, as_json: bool, quiet: bool, **options: Any) -> int:
    """Hold model NAME against its PyTorch original, module by module. Exit status 1 if a bound is
    broken.

    Needs torch, and torchvision or timm: pip install 'flaxblocks[torch]'.
    """
    from flaxblocks.cli.settings import read_size
    from flaxblocks.parity.verify import verify

    options["size"] = read_size(options["size"])
    with working(f"comparing {entry.name} with {entry.source}'s"):
        report = verify(entry, **options)
    if as_json:
        _print_json(report.as_dict())
    else:
        click.echo(report.summary() if quiet else str(report))
        click.echo(f"{entry.name}: {'every bound holds' if report.ok else 'a bound is broken'}")
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
    images: tuple[Path, ...],
    entry: ModelEntry,
    weights: str,
    top: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Classify images: the most likely classes of each, with their probabilities."""
    from flaxblocks.cli.classify import predict

    with working(f"classifying {len(images)} images"):
        results = predict(entry, weights, images, top=top, **options)
    if as_json:
        _print_json(results)
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
    help="Where to draw some of the digits; replaced if it is there. Needs matplotlib.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def demo_command(picture: Path, as_json: bool) -> None:
    """Classify 360 handwritten digits by a PyTorch checkpoint that comes with the package, without
    PyTorch.
    """
    from flaxblocks.demo.run import draw_digits, run_demo

    with working("converting, compiling, classifying"):
        result, digits, logits = run_demo()
    try:
        draw_digits(digits, logits, picture)
    except ModuleNotFoundError:
        drawn, note = None, "(with matplotlib installed it would draw some of them too)"
    else:
        drawn, note = str(picture), f"some of them, with both answers: {picture}"
    if as_json:
        _print_json({**result.as_dict(), "picture": drawn})
    else:
        click.echo(f"{result.describe()}\n  {note}")


@commands.command("selftest", cls=Example, example="flaxblocks selftest 'mobilenet*'")
@click.argument("pattern", default="*")
@click.option("--all", "everything", is_flag=True, help="Every network in every way and precision.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def selftest_command(pattern: str, everything: bool, as_json: bool) -> int:
    """Hold this device and this jaxlib against what PyTorch computed. Exit status 1 if a bound is
    broken.

    Runs models and blocks whose name matches PATTERN with weights and images that arithmetic alone
    makes; PyTorch's answers to them come with the package, and PyTorch is not needed. In float64
    the bound is 1e-12 (gradients 1e-10), in float32 and bfloat16 twice PyTorch's own error.
    """
    from flaxblocks.parity.selftest import selftest

    report = selftest(pattern, everything=everything)
    if as_json:
        _print_json(report.as_dict())
    else:
        click.echo(str(report))
    return 0 if report.ok else DEPARTS


@commands.command("doctor", cls=Example, example="flaxblocks doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(as_json: bool) -> int:
    """Show versions, devices and settings, what is wrong or missing, and the remedies.

    A known fault of the installed jaxlib is tried out. Exit status 1 where JAX computes wrongly
    here, or not at all; whatever else is missing is a note.
    """
    from dataclasses import asdict

    from flaxblocks.inspect.installation import diagnose

    findings = []
    for finding in diagnose():
        findings.append(finding)
        if not as_json:
            click.echo(str(finding))
    if as_json:
        _print_json([asdict(finding) for finding in findings])
    return DEPARTS if any(finding.status == "bad" for finding in findings) else 0
