"""The command `python -m train.evaluate`: a model's top-1 and top-5 accuracy on held-out images."""

import json
import sys
from contextlib import closing
from typing import Any

import click

from train.__main__ import guarded
from train.settings.config import Config
from train.settings.flags import command_of

__all__ = ["evaluate", "main"]

FLAGS = (
    "data",
    "num_classes",
    "held_out",
    "image_size",
    "resize_size",
    "interpolation",
    "crop_mode",
    "mean",
    "std",
    "batch_size",
    "workers",
    "model",
    "weights",
    "width_mult",
    "set",
    "dtype",
    "seed",
    "mesh",
)


def evaluate(config: Config) -> dict[str, Any]:
    """Measure loss and top-1 and top-5 accuracy in percent; also return the number of images and
    the names of unreadable ones.

    Raises: ValueError for settings, data or weights that do not fit together.
    """
    from tqdm import tqdm

    from train.data.open import open_data
    from train.network.build import build_model, transforms_for
    from train.network.model import Network
    from train.network.step import StepSettings
    from train.run.evaluation import Evaluator
    from train.run.memory import enough_memory
    from train.run.mesh import make_mesh
    from train.settings.defaults import filled, resolved

    if config.weights is None:
        raise ValueError("--weights must name what to evaluate: a file or published weights")
    mesh = make_mesh(config.mesh)
    data = open_data(config, training=False)
    if not len(data.train):
        click.echo(
            f"evaluate: {data.name} has no `val`, so all its images are measured, including any "
            "that a run was trained on; give the run's --config to exclude those",
            err=True,
        )
    config = resolved(config, data)
    transforms = transforms_for(config, data)
    model = build_model(config, None)
    if model.num_classes != len(data.classes):
        raise ValueError(
            f"--weights {config.weights} has {model.num_classes} classes and {data.name} has "
            f"{len(data.classes)}"
        )
    network = Network.of(model)
    settings = StepSettings(len(data.classes), transforms.mean, transforms.std)
    measure = Evaluator(
        network,
        settings,
        mesh,
        data.held_out,
        transforms,
        batch_size=filled(config.batch_size),
        workers=config.workers,
    )
    unreadable: list[str] = []
    enough = enough_memory(filled(config.batch_size), "a smaller one takes less memory")
    bar = tqdm(total=len(data.held_out), unit="image", leave=False, disable=None)
    with enough, bar, closing(measure):
        result = measure(
            network.params,
            network.frozen,
            network.buffers,
            unreadable=lambda source, index, _: unreadable.append(source.name(index)),
            seen=bar.update,
        )
    return {**result, "images": int(result["images"]), "unreadable": unreadable}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; an error is one sentence on stderr."""

    def run(config: Config) -> None:
        click.echo(json.dumps(evaluate(config), indent=2))

    command = command_of(
        run,
        only=FLAGS,
        help="Measure the accuracy of --weights on the held-out images of --data. With the "
        "--config of a run, measure on the images that the run held out, preprocessed as in the "
        "run.",
    )
    sys.exit(guarded(command, arguments, "evaluate"))


if __name__ == "__main__":
    main()
