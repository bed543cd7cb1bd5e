"""Checkpoints by themselves: which stay, and that they are what was saved."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.saving.checkpoints import Checkpoints
from train.saving.damage import Damaged


def abstract(state: Any) -> Any:
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state
    )


def test_arrays_may_be_donated_as_soon_as_saving_began(tmp_path: Path) -> None:
    """The steps that follow must not reach what is still being written."""
    step = jax.jit(lambda state: jax.tree.map(lambda a: 1.5 * a + 1, state), donate_argnums=0)
    state = step({f"{i}": jnp.arange(500_000.0) + i for i in range(8)})
    saved = jax.tree.map(lambda a: np.array(a, copy=True), state)
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    shape = abstract(state)
    checkpoints.save(1, state, {}, best=None)
    for _ in range(20):
        state = step(state)
    jax.block_until_ready(state)
    checkpoints.wait()
    restored = checkpoints.restore(1, shape)
    assert all(np.array_equal(restored[name], saved[name]) for name in saved)
    checkpoints.close()


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    state = {"a": jnp.zeros(3)}
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 2)):
        checkpoints.save(step, {"a": state["a"] + step}, {"note": step}, best=best)
    checkpoints.wait()
    assert checkpoints.steps() == [2, 4, 5]
    assert [checkpoints.notes(step)["note"] for step in (2, 4, 5)] == [2, 4, 5]
    checkpoints.close()
    again = Checkpoints(tmp_path / "c", keep=1)  # and it may be another number later
    found = again.newest_whole(abstract(state), lambda _: None, pytest.fail)
    assert found is not None
    restored, notes = found
    assert (restored["a"] == 5).all()
    assert notes["note"] == 5
    again.save(6, state, {}, best=6)
    again.wait()
    assert again.steps() == [6]
    again.close()


def test_what_was_left_half_written_is_removed(tmp_path: Path) -> None:
    half = tmp_path / "c" / "7.orbax-checkpoint-tmp"
    half.mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    assert checkpoints.steps() == []
    # Orbax removes it in the background, and waits for that before it writes.
    checkpoints.save(8, {"a": jnp.zeros(3)}, {}, best=None)
    checkpoints.wait()
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["8"]
    checkpoints.close()


def test_a_flipped_bit_of_an_array_is_seen(tmp_path: Path) -> None:
    """Orbax itself does not see it: its files have checksums of their tables, not of the arrays."""
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    state = {"a": jnp.arange(50_000.0), "b": jnp.ones(3)}
    checkpoints.save(1, state, {}, best=None)
    checkpoints.wait()
    stored = np.asarray(state["a"]).tobytes()
    (file,) = (
        p for p in (tmp_path / "c" / "1").rglob("*") if p.is_file() and stored in p.read_bytes()
    )
    data = bytearray(file.read_bytes())
    data[data.index(stored) + 100_001] ^= 4
    file.write_bytes(data)
    with pytest.raises(Damaged, match=r"\['a'\] is not what was saved"):
        checkpoints.restore(1, abstract(state))
    checkpoints.close()
