"""Everything that a config determines before the first step: devices, data, network, functions."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from grain import DatasetIterator
from jax.sharding import Mesh

from flaxblocks.weights.preprocess import Transforms
from train.data.augment import Augmentation
from train.data.open import open_data
from train.data.pipeline import train_batches, train_steps
from train.data.source import Dataset
from train.network.build import build_model, settings_of, transforms_for
from train.network.model import Network
from train.network.optimiser import make_optimiser
from train.network.schedule import Schedule, learning_rate
from train.network.state import Sums, TrainState, initial_state
from train.network.step import StepSettings, train_step
from train.run.evaluation import Evaluator
from train.run.mesh import batch_sharding, check_batch, make_mesh, shardings, share_of_process
from train.settings.config import Config, changed
from train.settings.defaults import filled, resolved

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """The constant parts of a run.

    Attributes:
        config: the settings, with defaults filled in.
        mesh: all devices.
        data: all images.
        transforms: the preprocessing for evaluation.
        network: the model.
        settings: settings of the training step.
        rate: the learning rate of each step.
        steps_per_epoch: number of steps in an epoch.
        start: makes the state before the first step, on its devices.
        abstract_state: shapes, dtypes and shardings of a state.
        zero_sums: makes the sums at the start of an epoch, on the devices of the state.
        step: the compiled training step; the state that it takes is donated.
        evaluate: evaluates on the held-out images.
    """

    config: Config
    mesh: Mesh
    data: Dataset
    transforms: Transforms
    network: Network
    settings: StepSettings
    rate: Schedule
    steps_per_epoch: int
    start: Callable[[], TrainState]
    abstract_state: TrainState
    zero_sums: Callable[[], Sums]
    step: Callable[[TrainState, dict[str, jax.Array]], TrainState]
    evaluate: Evaluator

    @property
    def total_steps(self) -> int:
        """Number of steps in the whole run."""
        return self.steps_per_epoch * self.config.epochs

    @cached_property
    def augmentation(self) -> Augmentation | Transforms:
        """The preparation of a training image."""
        config = self.config
        if config.augment == "none":
            return self.transforms
        side = config.train_size
        return Augmentation(
            size=self.transforms.crop_size if side is None else (side, side),
            interpolation=self.transforms.interpolation,
            min_crop=filled(config.min_crop),
            flip=filled(config.flip),
            trivial=config.augment == "trivial",
        )

    @cached_property
    def digest(self) -> str:
        """A hash that distinguishes the data from other data with the same number of images."""
        return self.data.digest()

    def batches(self, start: int) -> DatasetIterator[dict[str, np.ndarray]]:
        """This process's rows of the training batches from number `start` on."""
        return train_batches(
            self.data.train,
            self.augmentation,
            batch_size=filled(self.config.batch_size),
            seed=self.config.seed,
            epochs=self.config.epochs,
            start=start,
            share=share_of_process(),
            workers=self.config.workers,
        )

    def sentence(self) -> str:
        """A sentence that says what will be trained, on which devices and data."""
        config, classes = self.config, self.data.classes
        count = sum(p.size for p in jax.tree.leaves((self.network.params, self.network.frozen)))
        names = ", ".join(classes[:3]) + ", ..." * (len(classes) > 3)
        devices = f"{self.mesh.size} {jax.devices()[0].device_kind}"
        return (
            f"{config.model} with {count:,} parameters on {devices}; {self.data.name}: "
            f"{len(self.data.train):,} training images, {len(self.data.held_out):,} held out, "
            f"{len(classes):,} classes ({names})"
        )

    def describe_data(self) -> str:
        """A description of the data, which must be the same when a run is resumed."""
        return (
            f"{len(self.data.train):,} training and {len(self.data.held_out):,} held-out images "
            f"of {len(self.data.classes):,} classes"
        )

    def describe_config(self) -> dict[str, Any]:
        """The settings as plain JSON data."""
        return json.loads(json.dumps(asdict(self.config)))

    def accept(self, notes: dict[str, Any]) -> None:
        """Raise ValueError unless the checkpoint with these `notes` is of this run."""
        out, config = self.config.out, self.describe_config()
        differing = changed(notes["config"], config)
        if differing:
            raise ValueError(
                f"--out {out} holds a run with other settings, this one has "
                f"{', '.join(differing)}: give it another --out, or resume with the old settings "
                f"(--weights {out}/best.safetensors starts from what it learnt)"
            )
        if notes["data"]["images"] != self.describe_data():
            raise ValueError(
                f"--out {out} holds a run on {notes['data']['images']}, but --data "
                f"{config['data']} now has {self.describe_data()}: give this one another --out"
            )
        if notes["data"]["digest"] != self.digest:
            raise ValueError(
                f"--out {out} holds a run on other images or classes than --data {config['data']} "
                "now has, though equally many: give this one another --out"
            )


def make_plan(config: Config) -> Plan:
    """Build the plan, in an order that finds mistakes early.

    Raises: ValueError for settings or data that are not valid.
    """
    mesh = make_mesh(config.mesh)
    data = open_data(config)
    if len(data.classes) < 2:
        raise ValueError(
            f"--data {data.name} has only one class, {data.classes[0]!r}: it must have two or more,"
            " each in a folder of its own"
        )
    config = resolved(config, data)
    batch_size = filled(config.batch_size)
    check_batch(batch_size, config.grad_accum, mesh)
    steps = train_steps(data.train, batch_size)
    rate = learning_rate(config, filled(config.lr), steps)
    optimiser = make_optimiser(config, rate)
    transforms = transforms_for(config, data)
    config = replace(config, **settings_of(transforms))
    network = Network.of(build_model(config, len(data.classes)), config.freeze)
    settings = StepSettings(
        num_classes=len(data.classes),
        mean=transforms.mean,
        std=transforms.std,
        label_smoothing=config.label_smoothing,
        random_erasing=config.random_erasing,
        mixup=config.mixup,
        cutmix=config.cutmix,
        grad_accum=config.grad_accum,
        ema=config.ema or 0.0,
        ema_every=config.ema_every,
        warmup_steps=round(filled(config.warmup_epochs) * steps),
    )
    begin = partial(
        initial_state, network, optimiser, seed=config.seed, average=config.ema is not None
    )
    shapes = jax.eval_shape(begin)
    where = shardings(mesh, shapes)
    return Plan(
        config=config,
        mesh=mesh,
        data=data,
        transforms=transforms,
        network=network,
        settings=settings,
        rate=rate,
        steps_per_epoch=steps,
        start=lambda: jax.device_put(begin(), where),
        abstract_state=jax.tree.map(
            lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
            shapes,
            where,
        ),
        # Not `device_put`: with several processes, Orbax cannot split the arrays that it returns.
        zero_sums=jax.jit(Sums.zero, out_shardings=where.sums),
        step=jax.jit(
            train_step(network, optimiser, settings),
            donate_argnums=0,
            in_shardings=(where, batch_sharding(mesh)),
            out_shardings=where,
        ),
        evaluate=Evaluator(
            network,
            settings,
            mesh,
            data.held_out,
            transforms,
            batch_size=batch_size,
            workers=config.workers,
        ),
    )
