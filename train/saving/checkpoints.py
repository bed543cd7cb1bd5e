"""Saving and resuming a run with Orbax, asynchronously and atomically.

Orbax does not store checksums of the arrays, so a flipped bit would be restored silently. Each
checkpoint therefore records a checksum of every array, and counts as damaged if one does not match.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from train.run.mesh import united
from train.saving.arrays import checksums, differences, shapes
from train.saving.damage import (
    Damaged,
    ListedArrays,
    NotRestored,
    alike,
    check_files,
    sealed,
    unsealed,
)
from train.saving.disk import writing
from train.saving.quiet import quiet_orbax

__all__ = ["Checkpoints", "everywhere"]

SPARE = 1_000_000  # bytes of metadata and directories
AGAIN = "; no damage was found and nothing was moved: run the same command again once this is fixed"


@dataclass
class _NewestAndBest:
    """The checkpoints to keep: the newest ones, and the best of all that were evaluated."""

    newest: int
    best: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], context: Any) -> Sequence[bool]:
        """Orbax's `PreservationPolicy`."""
        first = len(checkpoints) - self.newest
        return [i >= first or c.step == self.best for i, c in enumerate(checkpoints)]


class Checkpoints:
    """The checkpoints of one run, in one folder, each named by its number of steps."""

    def __init__(self, folder: Path, keep: int):
        """Open or create `folder`, and remove unfinished checkpoints from it.

        Args:
            folder: a folder used only for checkpoints.
            keep: number of newest checkpoints to keep, in addition to the best.
        """
        self.folder = folder.absolute()
        self.policy = _NewestAndBest(keep)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self.policy, cleanup_tmp_directories=True
        )
        # Weights hardly compress, and compressing takes memory and time.
        self.arrays = ListedArrays(use_compression=False)
        handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
        handlers.add("state", ocp.args.PyTreeSave, self.arrays)
        handlers.add("notes", ocp.args.JsonSave, ocp.JsonCheckpointHandler())
        quiet_orbax()
        with _telling(self.folder):
            self.manager = ocp.CheckpointManager(
                self.folder, options=options, handler_registry=handlers
            )

    def save(self, step: int, state: Any, notes: Mapping[str, Any], *, best: int | None) -> None:
        """Start writing a checkpoint; the arrays may be donated as soon as this returns.

        Args:
            step: number of the checkpoint.
            state: a tree of arrays.
            notes: JSON data.
            best: step of the best checkpoint so far.

        Raises: OSError if the disk is full, or an earlier checkpoint could not be written.
        """
        self.policy.best = best
        noted = sealed({**notes, "arrays": checksums(state), "shapes": shapes(state)})
        self._check_space(state)
        with _telling(self.folder):
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state), notes=ocp.args.JsonSave(noted)
                ),
                force=True,
            )

    def _check_space(self, state: Any) -> None:
        """Raise OSError if the disk has no space for another checkpoint."""
        needed = sum(a.nbytes for a in jax.tree.leaves(state)) + SPARE
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                f"the disk of {self.folder} is full: a checkpoint takes {needed / 1e6:,.1f} MB, "
                f"and {free / 1e6:,.1f} MB are free; intact checkpoints are kept"
            )

    def wait(self) -> None:
        """Wait until everything is written. Raises: OSError if that fails."""
        with _telling(self.folder):
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Wait until everything is written, and close the folder."""
        with _telling(self.folder):
            self.manager.close()

    def steps(self) -> list[int]:
        """The steps of the existing checkpoints, oldest first. Every process must call it.

        Raises: NotRestored if the folder cannot be listed, which Orbax would treat as empty.
        """
        found: dict[str, str] = {}
        with alike(f"the checkpoints in {self.folder} cannot be listed", AGAIN):
            found = {name: "" for name in os.listdir(self.folder) if name.isdecimal()}
        return sorted(map(int, united(found)))

    def notes(self, step: int) -> dict[str, Any]:
        """The notes of a checkpoint. Every process must call it. Raises: Damaged, NotRestored."""
        path = self._path(step)
        with self._reading(step):
            return unsealed(path, path / "notes" / "metadata")

    def restore(self, step: int, abstract: Any) -> Any:
        """The state of a checkpoint. Every process must call it.

        Args:
            step: number of the checkpoint.
            abstract: the shapes, dtypes and shardings that the state must have.

        Raises:
            Damaged: the checkpoint is not what was saved.
            NotRestored: it holds other arrays, or cannot be restored for any other reason.
        """
        notes = self.notes(step)
        differing = differences(notes.get("shapes"), shapes(abstract))
        if differing:
            raise NotRestored(
                f"checkpoint {self._path(step)} holds a state that differs from this program's: "
                f"{differing}; nothing was changed: resume with the program and the JAX settings "
                "that wrote it, or give this run another --out"
            )
        with self._reading(step):
            try:
                # Not by the manager: if one process fails, the others would wait for it.
                state = self.arrays.restore(
                    self.manager.directory / str(step) / "state",
                    args=ocp.args.PyTreeRestore(
                        item=abstract,
                        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                    ),
                )
            except Exception:
                if "shapes" in notes:  # older checkpoints have no list of their files
                    check_files(self._path(step))
                raise
            for name, sum in checksums(state).items():
                if notes["arrays"].get(name, sum) != sum:  # arrays split over processes have none
                    raise Damaged(f"{name} is not what was saved")
        return state

    def newest_whole(
        self, abstract: Any, accept: Callable[[dict[str, Any]], None], warn: Callable[[str], None]
    ) -> tuple[Any, dict[str, Any]] | None:
        """The state and notes of the newest intact checkpoint; None if there are no checkpoints.

        Newer checkpoints, which are damaged, are moved to the folder `damaged` next to this one.

        Args:
            abstract: as in `restore`.
            accept: raises for notes from which the run cannot be resumed.
            warn: called with a message about each damaged checkpoint.

        Raises: NotRestored if a checkpoint cannot be restored although no damage is found, or all
            are damaged. Nothing is moved then.
        """
        damaged: dict[int, Damaged] = {}
        for step in reversed(self.steps()):
            try:
                notes = self.notes(step)
                accept(notes)
                state = self.restore(step, abstract)
            except Damaged as damage:
                damaged[step] = damage
                continue
            for number, damage in damaged.items():
                aside = self._put_aside(number)
                warn(
                    f"checkpoint {self._path(number)} is damaged and not used; it was moved to "
                    f"{aside}: {damage}"
                )
            self.policy.best = notes.get("best", {}).get("step")
            return state, notes
        if damaged:
            newest, damage = next(iter(damaged.items()))
            raise NotRestored(
                f"none of the checkpoints in {self.folder} is intact ({newest}: {damage}): give "
                f"this run another --out, or move {self.folder.parent} away"
            )
        return None

    def _path(self, step: int) -> Path:
        return self.folder / str(step)

    def _reading(self, step: int) -> AbstractContextManager[None]:
        """Raise an error of the block in all processes, as a sentence about a checkpoint."""
        before = ", or move the checkpoint away to resume from the one before it"
        return alike(f"checkpoint {self._path(step)} cannot be read", AGAIN + before)

    def _put_aside(self, step: int) -> Path:
        """Move a checkpoint to an unused name in the folder `damaged`. Returns its new path."""
        path, aside = self._path(step), self.folder.parent / "damaged"
        place: dict[str, str] = {}
        with alike(f"checkpoint {path} is damaged and cannot be moved away"):
            if jax.process_index() == 0:
                target, number = aside / str(step), 1
                while target.exists():
                    number += 1
                    target = aside / f"{step}.{number}"
                aside.mkdir(exist_ok=True)
                path.rename(target)
                place = {"now": str(target)}
        self.manager.reload()
        return Path(united(place)["now"])


def _telling(folder: Path) -> AbstractContextManager[None]:
    """Turn the errors of Orbax and TensorStore about failed writing into one OSError."""
    return writing(folder, Exception, "; intact checkpoints are kept")


def everywhere(condition: bool) -> bool:
    """Whether `condition` holds in every process."""
    if jax.process_count() == 1:
        return condition
    return bool(np.all(multihost_utils.process_allgather(np.asarray(condition))))
