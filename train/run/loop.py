"""The run: resume from a checkpoint if there is one; train, evaluate, save; finally export."""

import os
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from grain import DatasetIterator

import flaxblocks as fb
from flaxblocks.checkpoints.atomic_file import replacing
from train.data.pipeline import take_unreadable
from train.data.source import Source
from train.network.state import Sums, TrainState
from train.run.lock import alone_in
from train.run.memory import enough_memory
from train.run.mesh import batch_sharding, gathered, put_batch, start_processes, united
from train.run.plan import Plan, make_plan
from train.run.progress import Progress, sentence
from train.run.records import METRICS, Records
from train.run.stop import Stopped, StopRequest
from train.saving.checkpoints import Checkpoints, everywhere
from train.saving.damage import Damaged
from train.saving.disk import writing
from train.settings.config import Config
from train.settings.defaults import filled
from train.settings.flags import to_toml

__all__ = ["Diverged", "run"]

Batches = DatasetIterator[dict[str, np.ndarray]]
LESS = "a smaller one takes less memory, as does --grad-accum; saved checkpoints are kept"
FINAL, BEST = "final.safetensors", "best.safetensors"
LOOK_EVERY = 0.5  # seconds between looks at the state, each of which waits for the device
LOOK_STEPS = 50  # steps between them with several processes, which must look at the same step


class Diverged(Exception):
    """The loss, a gradient or the state has become infinite or NaN."""


def run(config: Config) -> dict[str, Any]:
    """Train with the settings `config`. Returns the last line of `metrics.jsonl`.

    Raises:
        ValueError: a setting, the data or the folder is not valid.
        Stopped: the run was asked to stop, and was saved.
        Diverged: loss, gradients or state became infinite or NaN; the last good checkpoint is kept.
        OSError: the disk is full or the folder cannot be written.
        MemoryError: a step does not fit into the device's memory.
    """
    start_processes(config)
    with StopRequest() as stop:
        plan = make_plan(config)
        with alone_in(Path(config.out)), enough_memory(filled(plan.config.batch_size), LESS):
            return Run(plan, stop).go()


class Run:
    """A run in progress: its plan, and what changes."""

    def __init__(self, plan: Plan, stop: StopRequest):
        """Resume from the newest intact checkpoint in `--out`, if there is one."""
        self.plan = plan
        self.config = plan.config
        self.out = Path(plan.config.out)
        self.stop = stop
        self.main = jax.process_index() == 0
        self.done = 0  # steps
        self.saved = -1  # the newest checkpoint
        self.seconds = 0.0  # of earlier processes
        self.best: dict[str, Any] = {}
        self.unreadable: dict[str, str] = {}  # name -> reason
        self.checkpoints = Checkpoints(self.out / "checkpoints", self.config.keep)
        self._say(plan.sentence())
        self.state = self._go_on() or self._begin()
        # An epoch with sums has not been evaluated yet, even if all its steps are done.
        self.epochs_done = (self.done - bool(self.state.sums.images)) // plan.steps_per_epoch
        self.progress = Progress(
            plan.steps_per_epoch,
            self.config.epochs,
            filled(self.config.batch_size),
            self.done,
            self.seconds,
            show=self.main,
        )

    def _go_on(self) -> TrainState | None:
        """The state of the newest intact checkpoint, or None."""
        found = self.checkpoints.newest_whole(self.plan.abstract_state, self.plan.accept, _warn)
        if found is None:
            return None
        state, notes = found
        self.done = self.saved = notes["data"]["batches"]
        self.seconds = notes["seconds"]
        self.best = notes["best"]
        self.unreadable = notes["unreadable"]
        self._say(
            f"resuming {self.config.out} after step {self.done:,} of {self.plan.total_steps:,}"
        )
        return state

    def _begin(self) -> TrainState:
        """The state before the first step. Raises: ValueError if a run would be overwritten."""
        there = {FINAL, BEST, METRICS, "damaged"}.intersection(os.listdir(self.out))
        left = united({name: "" for name in sorted(there) if (self.out / name).stat().st_size})
        if left:
            raise ValueError(
                f"--out {self.out} holds {' and '.join(left)} of a run but no checkpoint to resume "
                "from: give this run another --out, or move that folder away"
            )
        return self.plan.start()

    def go(self) -> dict[str, Any]:
        """Train to the end. Returns the last line of `metrics.jsonl`; in processes other than the
        main one an empty dict.
        """
        if not self.main:
            self._train(None)
            return {}
        with writing(self.out):
            with replacing(self.out / "config.toml") as file:  # without per-process settings
                shared = replace(self.config, coordinator=None, num_processes=None, process_id=None)
                file.write(to_toml(shared).encode())
            with replacing(self.out / "classes.txt") as file:
                file.write(os.fsencode("".join(f"{name}\n" for name in self.plan.data.classes)))
            records = Records(self.out, self.epochs_done * self.plan.steps_per_epoch, _warn)
        with closing(records):
            try:
                self._train(records)
            except (Stopped, Diverged):
                with suppress(OSError):
                    records.draw()
                raise
            with writing(self.out):
                records.draw()
            self._say(
                f"best weights (step {self.best['step']:,}, held-out top-1 "
                f"{self.best['top1']:.2f}%): {self.out / BEST}; final weights: {self.out / FINAL}"
            )
            return records.rows[-1] if records.rows else {}

    def _train(self, records: Records | None) -> None:
        with closing(self.plan.batches(self.done)) as batches, closing(self.plan.evaluate):
            self._train_epochs(batches, records)
        self._export()
        self.checkpoints.close()

    def _train_epochs(self, batches: Batches, records: Records | None) -> None:
        for epoch in range(self.epochs_done, self.config.epochs):
            self._train_epoch(epoch, batches)
            if self.saved < 0:  # no results without a checkpoint to resume from
                self._save()
                self.checkpoints.wait()
            row = self._measure(epoch)
            if records is not None:
                with writing(self.out):
                    records.add(row)
                left = self.progress.seconds_left(self.done)
                self._say(sentence(row, self.config.epochs, left))
            self._save()
            self._stop_or_save()

    def _train_epoch(self, epoch: int, batches: Batches) -> None:
        plan, rows = self.plan, batch_sharding(self.plan.mesh)
        self.progress.begin_epoch(epoch, self.done)
        looked = time.perf_counter()
        while self.done < (epoch + 1) * plan.steps_per_epoch:
            batch = next(batches)
            for index, reason in take_unreadable(batch).items():
                self._note_unreadable(plan.data.train, index, reason)
            self.state = plan.step(self.state, put_batch(batch, rows))
            self.done += 1
            if not self.progress.compiled:
                self._look()
                self.progress.first_step_done(self.done)
            if self._is_time_to_look(looked):
                self._look()
                looked = time.perf_counter()
            if self.done % plan.steps_per_epoch:  # a finished epoch is evaluated first
                self._stop_or_save()
        self._check_finite()  # also waits for the last step
        self.progress.end_epoch(self.done)

    def _stop_or_save(self) -> None:
        """Stop if the run was asked to; save if a checkpoint is due."""
        if self.stop.reached():
            self._leave()
        if self.config.save_every and self.done % self.config.save_every == 0:
            self._save()

    def _is_time_to_look(self, looked: float) -> bool:
        if jax.process_count() > 1:
            return self.done % LOOK_STEPS == 0
        return time.perf_counter() - looked > LOOK_EVERY

    def _look(self) -> None:
        """Wait for the device; show the progress, or end the run if it diverged."""
        self._check_finite()
        loss, top1 = _means(self.state.sums)
        self.progress.advance(self.done, loss, top1)

    def _measure(self, epoch: int) -> dict[str, Any]:
        """Evaluate, and return one line of metrics."""
        loss, top1 = _means(self.state.sums)
        params, buffers = self.state.evaluated()
        with self.progress.evaluation():
            held_out = self.plan.evaluate(
                params,
                self.state.frozen,
                buffers,
                unreadable=self._note_unreadable,
                seen=self._stop_while_measuring,
            )
        self.unreadable = united(self.unreadable)
        if not self.best or held_out["top1"] > self.best["top1"]:
            self.best = {"step": self.done, "top1": held_out["top1"]}
            self._write(self.state, BEST)
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
            "images_per_second": self.progress.images_per_second,
            "seconds": self.progress.seconds,
            "unreadable": len(self.unreadable),
        }

    def _stop_while_measuring(self, _: int) -> None:
        """Stop if the run was asked to; the epoch is evaluated when the run is resumed."""
        if self.stop.reached():
            self._leave()

    def _check_finite(self) -> None:
        step = int(self.state.diverged)
        if not step:
            return
        self.checkpoints.close()
        kept = (
            "nothing was saved"
            if self.saved < 0
            else f"the checkpoint of step {self.saved:,} is kept"
        )
        raise Diverged(
            f"loss, gradients or state became infinite or NaN in step {step:,}: the run ends here "
            f"and {kept}; a lower --lr, more --warmup-epochs or --clip-grad-norm may help"
        )

    def _save(self) -> None:
        """Start writing a checkpoint, unless this step has one."""
        if self.saved == self.done:
            return
        self._check_finite()
        notes = {
            "config": self.plan.describe_config(),
            "data": {
                "batches": self.done,
                "images": self.plan.describe_data(),
                "digest": self.plan.digest,
            },
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
            "command resumes from there",
            self.stop.exit_code,
        )

    def _export(self) -> None:
        """Write `final.safetensors`, and `best.safetensors` if it is missing."""
        self.checkpoints.wait()
        self._write(self.state, FINAL)
        if everywhere(not self.main or (self.out / BEST).exists()):
            return
        step = self.best["step"]
        if step not in self.checkpoints.steps():
            _warn(f"{BEST} is missing, and its checkpoint, of step {step:,}, is missing too")
            return
        try:
            best = self.checkpoints.restore(step, self.plan.abstract_state)
        except Damaged as damage:
            _warn(f"{BEST} is missing, and its checkpoint cannot be read: {damage}")
        else:
            self._write(best, BEST)

    def _write(self, state: TrainState, name: str) -> None:
        """Write the weights that a state evaluates with; all processes must call it, the main one
        writes.
        """
        params, buffers = state.evaluated()
        whole = gathered(self.plan.mesh, (params, state.frozen, buffers))
        if self.main:
            model = self.plan.network.with_arrays(*whole)
            with writing(self.out):
                fb.write_checkpoint(fb.to_torch(model), self.out / name)

    def _note_unreadable(self, source: Source, index: int, reason: str) -> None:
        """Warn of an unreadable image, once per image."""
        name = source.name(index)
        if name not in self.unreadable:
            self.unreadable[name] = reason
            _warn(f"{name} cannot be read: {reason} ({len(self.unreadable)} so far)")

    def _say(self, text: str) -> None:
        if self.main:
            print(text, flush=True)


def _means(sums: Sums) -> tuple[float, float]:
    """The mean loss, and the top-1 accuracy in percent."""
    count = max(int(sums.images), 1)
    return float(sums.loss) / count, 100 * int(sums.correct) / count


def _warn(text: str) -> None:
    print(f"train: warning: {text}", file=sys.stderr, flush=True)
