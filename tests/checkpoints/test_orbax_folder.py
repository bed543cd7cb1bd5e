"""Orbax folders, ours in Flax's hands and Flax's in ours."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks.checkpoints.contents import contents_of
from flaxblocks.checkpoints.orbax_folder import read_orbax, write_orbax
from flaxblocks.checkpoints.read import read_checkpoint
from flaxblocks.create.build import abstract_model
from flaxblocks.create.convert_file import convert_file
from flaxblocks.models.registry import find_model
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


def bits(state: nnx.State) -> dict[str, tuple[str, bytes]]:
    """Of each array, a random key too, the dtype and the bytes."""
    leaves = jax.tree.leaves_with_path(state)
    return {jax.tree_util.keystr(path): (str(leaf.dtype), words(leaf)) for path, leaf in leaves}


def words(leaf) -> bytes:
    is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()


SHALLOW = {**CONFIG, "inverted_residual_setting": [[1, 8, 1, 1], [6, 8, 2, 2]]}
STATES = [{}, {"dropout": 0.0}, {"num_classes": 0}, {"stochastic_depth": 0.2}]


@pytest.mark.parametrize("config", STATES, ids=str)
@pytest.mark.parametrize("writer", ["convert", "write_checkpoint"])
def test_flax_restores_a_state_as_its_users_do(writer, config, tmp_path):
    config = {**SHALLOW, **config}
    model = fb.create_model("mobilenet_v2", **config)
    if writer == "convert":
        fb.write_checkpoint(fb.to_torch(model), tmp_path / "mine.pth")
        row = find_model("mobilenet_v2")
        convert_file(tmp_path / "mine.pth", tmp_path / "f.orbax", row, config)
    else:
        fb.write_checkpoint(nnx.state(model), tmp_path / "f.orbax")
    other = fb.create_model("mobilenet_v2", **config, rngs=1)
    assert bits(nnx.state(other)) != bits(nnx.state(model))
    restored = ocp.StandardCheckpointer().restore(tmp_path / "f.orbax", nnx.state(other))
    nnx.update(other, restored)
    assert bits(nnx.state(other)) == bits(nnx.state(model))
    again = fb.create_model("mobilenet_v2", weights=tmp_path / "f.orbax", **config)
    assert equal_arrays(fb.to_torch(again, "flax"), fb.to_torch(model, "flax"))


def test_a_state_is_written_as_flax_writes_it(model, tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "theirs", nnx.state(model))
    fb.write_checkpoint(nnx.state(model), tmp_path / "ours.orbax")
    ours, theirs = ((tmp_path / name / "_METADATA") for name in ("ours.orbax", "theirs"))
    assert ours.read_text() == theirs.read_text()
    with ocp.StandardCheckpointer() as checkpointer:
        assert bits(checkpointer.restore(tmp_path / "ours.orbax")) == bits(
            checkpointer.restore(tmp_path / "theirs")
        )


def test_a_state_has_numbers_and_goes_into_a_folder(model, tmp_path):
    abstract = nnx.state(abstract_model("mobilenet_v2"))
    with pytest.raises(ValueError, match=r"^arrays\['blocks\S+'\] \(a ShapeDtypeStruct\) must"):
        fb.write_checkpoint(abstract, tmp_path / "f.orbax")
    for suffix in (".safetensors", ".pth", ".npz"):
        message = r"\(a State\) can be written to an .orbax .*`fb.to_torch"
        with pytest.raises(ValueError, match=message):
            fb.write_checkpoint(nnx.state(model), tmp_path / f"f{suffix}")
    message = r"arrays \(a MobileNetV2\) must map names to NumPy arrays"
    with pytest.raises(ValueError, match=message):
        fb.write_checkpoint(model, tmp_path / "f.orbax")
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_anothers_beginning_is_refused(tmp_path):
    arrays = {"a.b": np.ones(3), "a": np.ones(2)}
    with pytest.raises(ValueError, match=r"^arrays has 'a' and 'a\.b': no folder can hold"):
        fb.write_checkpoint(arrays, tmp_path / "f.orbax")
    assert not list(tmp_path.iterdir())


def test_what_flax_saved_is_read(model, state, tmp_path):
    fb.load_torch(model, state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "theirs", nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    other = fb.create_model("mobilenet_v2", weights=tmp_path / "theirs", width_mult=0.25)
    assert equal_arrays(fb.to_torch(other, "torchvision"), state)


def test_a_folder_that_orbax_did_not_write_is_refused_quietly(tmp_path, caplog):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(fb.CheckpointError, match="is a folder that Orbax did not write"):
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
    with pytest.raises(fb.CheckpointError, match="s is an Orbax folder without arrays"):
        contents_of(tmp_path / "s")


def test_a_damaged_folder(tmp_path):
    write_orbax({"a": np.ones(2)}, tmp_path / "o")
    (tmp_path / "o" / "_METADATA").write_text("{")
    with pytest.raises(fb.CheckpointError, match="o is a folder that Orbax cannot restore"):
        contents_of(tmp_path / "o")


def test_written_by_suffix(tmp_path):
    arrays = {"a.kernel": np.ones((2, 3), np.float32), "b": np.zeros(2)}
    fb.write_checkpoint(arrays, tmp_path / "m.orbax")
    fb.write_checkpoint(arrays, tmp_path / "m.orbax")  # in place of the first
    assert read_checkpoint(tmp_path / "m.orbax").keys() == arrays.keys()
    (tmp_path / "n.orbax").mkdir()
    with pytest.raises(fb.CheckpointError, match=r"^\S*n\.orbax exists and is not an Orbax folder"):
        fb.write_checkpoint(arrays, tmp_path / "n.orbax")
