"""Orbax folders, ours in Flax's hands and Flax's in ours."""

import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks.checkpoints.contents import contents_of
from flaxblocks.checkpoints.orbax_folder import read_orbax, write_orbax
from flaxblocks.checkpoints.read import read_checkpoint
from tests.convert.conftest import CONFIG
from tests.support import equal_arrays
from train.saving.checkpoints import Checkpoints


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


def test_a_whole_state_with_its_random_streams(model, state, tmp_path):
    fb.load_torch(model, state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "theirs", nnx.state(model))
    contents = contents_of(tmp_path / "theirs")
    assert contents.others == ("random streams (2 arrays)",)
    other = fb.create_model("mobilenet_v2", weights=tmp_path / "theirs", width_mult=0.25)
    assert equal_arrays(fb.to_torch(other, "torchvision"), state)


TREE = {"a": {"kernel": np.ones((2, 3), np.float32)}, "b": np.zeros(2)}


@pytest.mark.parametrize("item", [None, "state", "params"])
def test_of_a_manager_the_newest_step_is_taken(item, tmp_path):
    with ocp.CheckpointManager(tmp_path / "m") as manager:
        for step in (3, 20, 100):
            tree = {"a": {"kernel": np.full((2, 3), step, np.float32)}, "b": np.zeros(2)}
            save = ocp.args.StandardSave(tree)
            manager.save(step, args=save if item is None else ocp.args.Composite(**{item: save}))
        manager.wait_until_finished()
    (state,) = contents_of(tmp_path / "m").state_dicts
    assert state.key == f"100.{item or 'default'}"
    assert state.arrays["a.kernel"][0, 0] == 100
    (state,) = contents_of(tmp_path / "m" / "3").state_dicts
    assert state.key == (item or "default")
    assert state.arrays["a.kernel"][0, 0] == 3
    assert list(read_checkpoint(tmp_path / "m" / "20" / (item or "default"))) == ["a.kernel", "b"]


def test_the_state_of_a_program(tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        tree = {"model": TREE, "opt_state": {"mu": TREE}, "step": np.array(3)}
        checkpointer.save(tmp_path / "s", tree)
    (state,) = contents_of(tmp_path / "s").state_dicts
    assert state.key == "model"
    assert list(state.arrays) == ["a.kernel", "b"]


def test_a_run_of_the_trainer(tmp_path):
    """Its parts are put together, and the average comes first."""
    w, v, mean = (np.full(2, value, np.float32) for value in (1, 2, 3))
    state = {
        "params": {"a.w": w},
        "frozen": {"a.v": v},
        "buffers": {"a.mean": mean},
        "optimiser": {"mu": {"a.w": w}},
        "average": {
            "params": {"a.w": w + 9},
            "buffers": {"a.mean": mean + 9},
            "count": np.array(1),
        },
        "step": np.array(7),
        "diverged": np.array(0),
    }
    run = Checkpoints(tmp_path / "run" / "checkpoints", keep=1)
    run.save(7, state, {}, best=None)
    run.wait()
    run.close()
    for source in (tmp_path / "run", tmp_path / "run" / "checkpoints"):
        average, raw = contents_of(source).state_dicts
        assert average.averaged
        assert average.key.endswith("7.state.average")
        assert {name: a[0] for name, a in raw.arrays.items()} == {"a.w": 1, "a.v": 2, "a.mean": 3}
        found = {name: array[0] for name, array in average.arrays.items()}
        assert found == {"a.w": 10, "a.v": 2, "a.mean": 12}


def test_a_folder_without_arrays(tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "s", {"rngs": {"key": np.ones(2, np.uint32)}})
    with pytest.raises(fb.CheckpointError, match="s is a folder of Orbax's without arrays"):
        contents_of(tmp_path / "s")


def test_a_damaged_folder(tmp_path):
    write_orbax({"a": np.ones(2)}, tmp_path / "o")
    (tmp_path / "o" / "_METADATA").write_text("{")
    with pytest.raises(
        fb.CheckpointError, match="o is a folder, and not one that Orbax can restore"
    ):
        contents_of(tmp_path / "o")


def test_written_by_suffix(tmp_path):
    arrays = {"a.kernel": np.ones((2, 3), np.float32), "b": np.zeros(2)}
    fb.write_checkpoint(arrays, tmp_path / "m.orbax")
    fb.write_checkpoint(arrays, tmp_path / "m.orbax")  # in place of the first
    assert read_checkpoint(tmp_path / "m.orbax").keys() == arrays.keys()
    (tmp_path / "n.orbax").mkdir()
    with pytest.raises(fb.CheckpointError, match=r"^\S*n\.orbax is there and no Orbax folder"):
        fb.write_checkpoint(arrays, tmp_path / "n.orbax")
