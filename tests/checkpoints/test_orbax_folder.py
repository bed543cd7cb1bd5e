"""Orbax folders, ours in Flax's hands and Flax's in ours."""

import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks.checkpoints.orbax_folder import read_orbax, write_orbax
from tests.convert.conftest import CONFIG
from tests.support import equal_arrays


def test_flax_restores_what_convert_wrote(model, state, tmp_path):
    fb.load_torch(model, state)
    write_orbax(fb.to_torch(model, "flax"), tmp_path / "ours")
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "ours")
    other = fb.create_model("mobilenet_v2", **CONFIG)
    nnx.update(other, nnx.restore_int_paths(restored))
    assert equal_arrays(fb.to_torch(other), state)


def test_what_flax_saved_is_read(model, state, tmp_path):
    fb.load_torch(model, state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "theirs", nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    other = fb.create_model("mobilenet_v2", weights=tmp_path / "theirs", width_mult=0.25)
    assert equal_arrays(fb.to_torch(other, "torchvision"), state)


def test_a_folder_that_orbax_did_not_write_is_refused_quietly(tmp_path, caplog):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(fb.CheckpointError, match="is a folder, and none that Orbax wrote"):
        read_orbax(tmp_path)
    assert not caplog.records


def test_names_and_dtypes_are_kept(tmp_path):
    arrays = {"a.kernel": np.ones((2, 3), np.float16), "a.count": np.array(2**40), "b": np.zeros(2)}
    write_orbax(arrays, tmp_path / "o")
    back = read_orbax(tmp_path / "o")
    assert {name: array.dtype for name, array in back.items()} == {
        name: array.dtype for name, array in arrays.items()
    }
    assert all(np.array_equal(back[name], array) for name, array in arrays.items())
