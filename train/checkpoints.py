"""Saving a run and going on from there, by Orbax: asynchronous, and whole or not at all.

Orbax's files carry no checksum over the arrays: a flipped bit would be restored without a word. So
each checkpoint notes one of every array, and one that does not fit them counts as damaged.
"""

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from train.disk import first_line, writing
from train.quiet import quiet_orbax

__all__ = ["Checkpoints", "Damaged", "everywhere"]

SPARE = 1_000_000  # bytes of metadata and directories


class Damaged(Exception):
    """A checkpoint that is not what was saved."""


@dataclass
class _NewestAndBest:
    """Which checkpoints stay: the newest, and the best of all that were measured."""

    newest: int
    best: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], context: Any) -> Sequence[bool]:
        """Orbax's `PreservationPolicy`."""
        first = len(checkpoints) - self.newest
        return [i >= first or c.step == self.best for i, c in enumerate(checkpoints)]


class Checkpoints:
    """The checkpoints of one run, in one folder, each under the number of steps taken."""

    def __init__(self, folder: Path, keep: int):
        """Open or make `folder`; remains of unfinished writing in it are removed.

        Args:
            folder: of the checkpoints alone.
            keep: newest ones to keep, beside the best.
        """
        self.folder = folder.absolute()
        self.policy = _NewestAndBest(keep)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self.policy, cleanup_tmp_directories=True
        )
        handlers = {
            # Weights hardly compress, and compressing takes memory and time.
            "state": ocp.PyTreeCheckpointHandler(use_compression=False),
            "notes": ocp.JsonCheckpointHandler(),
        }
        quiet_orbax()
        with _telling(self.folder):
            self.manager = ocp.CheckpointManager(
                self.folder, options=options, item_handlers=handlers
            )

    def save(self, step: int, state: Any, notes: Mapping[str, Any], *, best: int | None) -> None:
        """Begin to write; the arrays may be donated as soon as this returns.

        Args:
            step: its number.
            state: a tree of arrays.
            notes: JSON.
            best: the step of the best checkpoint so far.

        Raises: OSError if an earlier one could not be written.
        """
        self.policy.best = best
        plain = {**notes, "arrays": _checksums(state)}
        noted = {"notes": plain, "sha256": _digest(plain)}
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
        """Raise OSError if the disk cannot hold one checkpoint more."""
        needed = sum(a.nbytes for a in jax.tree.leaves(state)) + SPARE
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                f"the disk of {self.folder} is full: a checkpoint takes {needed / 1e6:,.1f} MB, "
                f"and {free / 1e6:,.1f} MB are free; the checkpoints that are whole stay"
            )

    def wait(self) -> None:
        """Return when all is written. Raises: OSError if it could not be."""
        with _telling(self.folder):
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and let go of the folder."""
        with _telling(self.folder):
            self.manager.close()

    def steps(self) -> list[int]:
        """Those that there are, oldest first."""
        return sorted(self.manager.all_steps(read=True))

    def notes(self, step: int) -> dict[str, Any]:
        """The notes of a checkpoint. Raises: Damaged."""
        try:
            restored = self.manager.restore(
                step, args=ocp.args.Composite(notes=ocp.args.JsonRestore())
            )
            noted = restored["notes"]
            whole = noted["sha256"] == _digest(noted["notes"])
        except Exception as error:  # Orbax raises many kinds
            raise Damaged(first_line(error)) from error
        if not whole:
            raise Damaged("its notes are not those that were saved")
        return noted["notes"]

    def restore(self, step: int, abstract: Any) -> Any:
        """The state of a checkpoint.

        Args:
            step: its number.
            abstract: the shapes, dtypes and shardings that it must have.

        Raises: Damaged.
        """
        expected = self.notes(step)["arrays"]
        try:
            restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
            restored = self.manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(item=abstract, restore_args=restore_args)
                ),
            )
        except Exception as error:
            raise Damaged(first_line(error)) from error
        state = restored["state"]
        found = _checksums(state)
        for name, sum in found.items():
            if expected.get(name, sum) != sum:  # split over processes it had none
                raise Damaged(f"{name} is not what was saved")
        return state

    def newest_whole(
        self, abstract: Any, accept: Callable[[dict[str, Any]], None], warn: Callable[[str], None]
    ) -> tuple[Any, dict[str, Any]] | None:
        """State and notes of the newest checkpoint that is whole; None where there is none.

        Damaged ones are moved to the folder `damaged` beside this one, and told through `warn`.

        Args:
            abstract: as in `restore`.
            accept: raises for notes that the run cannot go on from; nothing is touched then.
            warn: told about each damaged one.
        """
        for step in reversed(self.steps()):
            state, notes, damage = None, None, None
            try:
                notes = self.notes(step)
            except Damaged as error:
                damage = error
            if everywhere(notes is not None):
                assert notes is not None
                accept(notes)
                try:
                    state = self.restore(step, abstract)
                except Damaged as error:
                    damage = error
                if everywhere(state is not None):
                    self.policy.best = notes.get("best", {}).get("step")
                    return state, notes
            aside = self._put_aside(step)
            warn(
                f"checkpoint {self.folder / str(step)} is damaged and left out, it lies in {aside} "
                f"now: {damage}"
            )
        return None

    def _put_aside(self, step: int) -> Path:
        """Move a checkpoint to where none of its number is. Returns its new place."""
        aside = self.folder.parent / "damaged"
        target, number = aside / str(step), 1
        while target.exists():
            number += 1
            target = aside / f"{step}.{number}"
        everywhere(True)
        if jax.process_index() == 0:
            aside.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(target)
        everywhere(True)
        self.manager.reload()
        return target


def _telling(folder: Path) -> AbstractContextManager[None]:
    """What Orbax and TensorStore raise where nothing can be written, as one OSError."""
    return writing(folder, Exception, "; the checkpoints that are whole stay")


def _checksums(state: Any) -> dict[str, str]:
    """A checksum of each array that this process sees all of."""
    sums = {}
    for path, array in jax.tree_util.tree_leaves_with_path(state):
        if not isinstance(array, jax.Array) or array.is_fully_addressable:
            whole = np.asarray(array)
        elif array.is_fully_replicated:
            whole = np.asarray(array.addressable_data(0))
        else:
            continue
        data = np.ascontiguousarray(whole).reshape(-1).view(np.uint8).data
        sums[jax.tree_util.keystr(path)] = f"{zlib.crc32(data):08x}"
    return sums


def _digest(notes: Any) -> str:
    return hashlib.sha256(json.dumps(notes, sort_keys=True).encode()).hexdigest()


def everywhere(condition: bool) -> bool:
    """Whether it holds in every process."""
    if jax.process_count() == 1:
        return condition
    return bool(np.all(multihost_utils.process_allgather(np.asarray(condition))))
