"""The run: go on from a checkpoint if there is one, then train, evaluate, save; at last export."""

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flaxblocks as fb
from flaxblocks.convert.atomic_file import replacing
from train.checkpoints import Checkpoints
from train.config import Config
from train.data.pipeline import take_unreadable
from train.data.source import Source, Unreadable
from train.defaults import filled
from train.flags import to_toml
from train.lock import alone_in
from train.mesh import batch_sharding, gathered, put_batch, start_processes
from train.plan import Plan, make_plan
from train.progress import Progress, sentence
from train.records import Records
from train.state import Sums, TrainState
from train.stop import Stopped, StopRequest

__all__ = ["Diverged", "run"]

LOOK_EVERY = 0.5  # seconds; each look at the device makes the host wait for it
LOOK_STEPS = 50  # the same with several processes, which must see the same state


class Diverged(Exception):
    """The loss or a gradient is no longer a finite number."""


def run(config: Config) -> dict[str, Any]:
    """Train as `config` says. Returns the last line of `metrics.jsonl`.

    Raises:
        ValueError: a setting, the data or the folder does not fit.
        Stopped: asked to stop; what was done is saved.
        Diverged: the loss is no number; the last good checkpoint stays.
        OSError: the disk is full or the folder cannot be written.
    """
    start_processes(config)
    with StopRequest() as stop:
        plan = make_plan(config)
        try:
            with alone_in(Path(config.out)):
                return Run(plan, stop).go()
        except OSError as error:
            if error.strerror is None:  # it is a sentence already
                raise
            named = error.filename or f"--out {config.out}"
            raise OSError(f"{named} cannot be written: {error.strerror}") from error


class Run:
    """A run under way: the plan, and what changes."""

    def __init__(self, plan: Plan, stop: StopRequest):
        """Go on from the newest whole checkpoint in `--out`, if there is one."""
        self.plan = plan
        self.config = plan.config
        self.stop = stop
        self.main = jax.process_index() == 0
        self.done = 0  # steps
        self.saved = -1  # the newest checkpoint
        self.seconds = 0.0  # of earlier processes
        self.best: dict[str, Any] = {}
        self.unreadable: dict[str, str] = {}  # name -> reason
        self.checkpoints = Checkpoints(Path(self.config.out) / "checkpoints", self.config.keep)
        self.state = self._go_on() or plan.start()
        self.progress = Progress(
            plan.steps_per_epoch,
            self.config.epochs,
            filled(self.config.batch_size),
            self.done,
            self.seconds,
            show=self.main,
        )

    def _go_on(self) -> TrainState | None:
        """The state of the newest whole checkpoint, if there is one."""
        found = self.checkpoints.newest_whole(self.plan.abstract_state, self.plan.accept, _warn)
        if found is None:
            return None
        state, notes = found
        self.done = self.saved = notes["data"]["batches"]
        self.seconds = notes["seconds"]
        self.best = notes["best"]
        self.unreadable = notes["unreadable"]
        self._say(
            f"going on in {self.config.out} after step {self.done:,} of {self.plan.total_steps:,}"
        )
        return state

    def go(self) -> dict[str, Any]:
        """Train to the end. Returns the last line of `metrics.jsonl`; of another process than the
        main one, nothing.
        """
        if not self.main:
            self._train(None)
            return {}
        out = Path(self.config.out)
        with replacing(out / "config.toml") as file:
            file.write(to_toml(self.config).encode())
        with closing(Records(out, self.done)) as records:
            self._train(records)
            records.draw()
            return records.rows[-1]

    def _train(self, records: Records | None) -> None:
        batches = self.plan.batches(self.done)
        for epoch in range(self.done // self.plan.steps_per_epoch, self.config.epochs):
            self._train_epoch(epoch, batches)
            row = self._measure(epoch)
            if records is not None:
                records.add(row)
                left = self.progress.seconds_left(self.done)
                self._say(sentence(row, self.config.epochs, left))
            self._save()
            self._stop_or_save()
        self._export()
        self.checkpoints.close()

    def _train_epoch(self, epoch: int, batches: Iterator[dict[str, np.ndarray]]) -> None:
        plan, rows = self.plan, batch_sharding(self.plan.mesh)
        self.progress.begin_epoch(epoch, self.done)
        looked = time.perf_counter()
        while self.done < (epoch + 1) * plan.steps_per_epoch:
            batch = next(batches)
            for index in take_unreadable(batch):
                self._note_unreadable(plan.data.train, index)
            self.state = plan.step(self.state, put_batch(batch, rows))
            self.done += 1
            if not self.progress.steps_began:
                self._look()
                self.progress.first_step_done()
            if self._is_time_to_look(looked):
                self._look()
                looked = time.perf_counter()
            if self.done % plan.steps_per_epoch:  # at its end the epoch is measured first
                self._stop_or_save()
        self.progress.end_epoch()

    def _stop_or_save(self) -> None:
        """Leave if the run is asked to; save where it is time."""
        if self.stop.reached(self.done):
            self._leave()
        if self.config.save_every and self.done % self.config.save_every == 0:
            self._save()

    def _is_time_to_look(self, looked: float) -> bool:
        if jax.process_count() > 1:
            return self.done % LOOK_STEPS == 0
        return time.perf_counter() - looked > LOOK_EVERY

    def _look(self) -> None:
        """Wait for the device; show where it is, or end the run if it diverged."""
        self._check_finite()
        loss, top1 = _means(self.state.sums)
        self.progress.advance(self.done, loss, top1)

    def _measure(self, epoch: int) -> dict[str, Any]:
        """Evaluate; one line of metrics."""
        self._check_finite()
        images_per_second = self.progress.images_per_second(self.done)
        loss, top1 = _means(self.state.sums)
        params, buffers = self.state.evaluated()
        held_out = self.plan.evaluate(
            params, self.state.frozen, buffers, unreadable=self._note_unreadable
        )
        if not self.best or held_out["top1"] > self.best["top1"]:
            self.best = {"step": self.done, "top1": held_out["top1"]}
        self.state = replace(self.state, sums=self.plan.zero_sums())
        return {
            "epoch": epoch + 1,
            "step": self.done,
            "learning_rate": float(self.plan.rate(jnp.asarray(self.done - 1))),
            "train_loss": loss,
            "train_top1": top1,
            "held_out_loss": held_out["loss"],
            "held_out_top1": held_out["top1"],
            "held_out_top5": held_out["top5"],
            "images_per_second": images_per_second,
            "seconds": self.progress.seconds,
            "unreadable": len(self.unreadable),
        }

    def _check_finite(self) -> None:
        step = int(self.state.diverged)
        if not step:
            return
        self.checkpoints.close()
        kept = (
            "nothing was saved"
            if self.saved < 0
            else f"the checkpoint of step {self.saved:,} stays"
        )
        raise Diverged(
            f"the loss or a gradient is no finite number in step {step:,}: the run ends here and "
            f"{kept}; a lower --lr, more --warmup-epochs or --clip-grad-norm may help"
        )

    def _save(self) -> None:
        """Begin to write a checkpoint, unless this step has one."""
        if self.saved == self.done:
            return
        self._check_finite()
        notes = {
            "config": self.plan.describe_config(),
            "data": {"batches": self.done, "images": self.plan.describe_data()},
            "seconds": self.progress.seconds,
            "best": self.best,
            "unreadable": self.unreadable,
        }
        self.checkpoints.save(self.done, self.state, notes, best=self.best.get("step"))
        self.saved = self.done

    def _leave(self) -> None:
        self._save()
        self.checkpoints.close()
        raise Stopped(
            f"asked to stop: saved after step {self.done:,} of {self.plan.total_steps:,}; the same "
            "command goes on from there",
            self.stop.exit_code,
        )

    def _export(self) -> None:
        """Write `final.safetensors` and `best.safetensors`, in PyTorch's layout."""
        self.checkpoints.wait()
        self._write(self.state, "final.safetensors")
        best = self.state
        if self.best["step"] != self.done:
            best = self.checkpoints.restore(self.best["step"], self.plan.abstract_state)
        self._write(best, "best.safetensors")

    def _write(self, state: TrainState, name: str) -> None:
        """Write what a state evaluates by; every process brings its part, the main one writes."""
        params, buffers = state.evaluated()
        whole = gathered(self.plan.mesh, (params, state.frozen, buffers))
        if self.main:
            model = self.plan.network.with_arrays(*whole)
            fb.write_checkpoint(fb.to_torch(model), Path(self.config.out) / name)

    def _note_unreadable(self, source: Source, index: int) -> None:
        """Name an image that cannot be read, the first time that it is met."""
        name = source.name(index)
        if name in self.unreadable:
            return
        try:
            source[index]
        except Unreadable as error:
            self.unreadable[name] = str(error)
            _warn(f"{name} cannot be read: {error} ({len(self.unreadable)} so far)")

    def _say(self, text: str) -> None:
        if self.main:
            print(text, flush=True)


def _means(sums: Sums) -> tuple[float, float]:
    """Mean loss, and top-1 in percent."""
    count = max(int(sums.images), 1)
    return float(sums.loss) / count, 100 * int(sums.correct) / count


def _warn(text: str) -> None:
    print(f"train: warning: {text}", file=sys.stderr, flush=True)
