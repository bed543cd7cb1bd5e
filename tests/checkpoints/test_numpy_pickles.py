"""NumPy's arrays in pickles: `pickle.dump` of a dict of them, and `torch.save` of one."""

import pickle
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import torch

from flaxblocks.checkpoints import pickle_bytes
from flaxblocks.checkpoints.contents import contents_of
from flaxblocks.checkpoints.read import CheckpointError, read_checkpoint
from tests.checkpoints.checkpoint_samples import cheap_refusal, pickled, zip_file

ARRAYS = {
    "w": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "long": np.random.default_rng(0).standard_normal(1000),
    "fortran": np.asfortranarray(np.arange(600.0).reshape(20, 30)),
    "view": np.arange(20)[::3],
    "big": np.arange(5, dtype=">i4"),
    "half": np.ones(3, np.float16),
    "bfloat16": np.ones(3, ml_dtypes.bfloat16),
    "flag": np.array([True, False]),
    "scalar": np.array(7),
    "number": np.int64(3),
    "empty": np.zeros((0, 3), np.float32),
    "bytes": np.arange(256, dtype=np.uint8),
}


def assert_same(found: dict) -> None:
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert not found[name].flags.writeable


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickled(protocol, tmp_path):
    (tmp_path / "f.pkl").write_bytes(pickle.dumps(ARRAYS, protocol))
    assert_same(read_checkpoint(tmp_path / "f.pkl"))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("new", [True, False])
def test_saved_by_torch(new, protocol, tmp_path):
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": new}
    torch.save({"epoch": 1, "model": ARRAYS}, tmp_path / "f", **options)
    assert_same(read_checkpoint(tmp_path / "f"))


@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"])
def test_both_names_of_numpy(module, tmp_path):
    program = pickle.dumps({"w": ARRAYS["w"]}, 2)
    own = next(m for m in (b"numpy._core", b"numpy.core") if b"c" + m in program)
    (tmp_path / "f").write_bytes(program.replace(own, module))
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "f")["w"], ARRAYS["w"])


def test_detectron2(tmp_path):
    saved = {"model": ARRAYS, "__author__": "Caffe2", "matching_heuristics": True}
    (tmp_path / "f.pkl").write_bytes(pickle.dumps(saved))
    contents = contents_of(tmp_path / "f.pkl")
    assert_same(dict(contents.state_dicts[0].arrays))
    assert contents.others == ("__author__ (str)", "matching_heuristics (bool)")


def test_python_2(tmp_path):
    """Its bytes were texts."""
    array = pickle.dumps(np.arange(300, dtype=np.int16), 3)
    at = array.index(b"B\x58\x02\0\0")
    program = b"\x80\x02}U\1w" + array[2:at] + b"T" + array[at + 1 : -1] + b"s."
    (tmp_path / "f").write_bytes(program)
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "f")["w"], np.arange(300))


def test_memory_and_bound(monkeypatch, tmp_path):
    """Arrays' bytes stay in the file and do not count towards the longest pickle."""
    monkeypatch.setattr(pickle_bytes, "MOST_BYTES", 5000)
    arrays = {f"w{i}": np.full(1 << 20, i, np.float32) for i in range(4)}
    (tmp_path / "f").write_bytes(pickle.dumps(arrays, 4))
    read_checkpoint(tmp_path / "f")
    tracemalloc.start()
    found = read_checkpoint(tmp_path / "f")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    assert found["w3"][-1] == 3
    (tmp_path / "f").write_bytes(pickle.dumps(arrays, 2))  # as text: an array costs a copy
    assert read_checkpoint(tmp_path / "f")["w3"][-1] == 3


def state(*values: object) -> bytes:
    call = pickled(np.zeros(2))[2:-1]
    head = call[: call.index(b"(K\x01")]
    return b"\x80\x02}X\1\0\0\0w" + head + pickled(values)[2:-1] + b"bs."


F4 = np.dtype("f4")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((1, (3,), F4, False, b"12345678"), "has the shape (3,) and 8 bytes, not 12"),
        ((1, (2**62, 4), F4, False, b"12345678"), "expands to far more"),
        ((1, (0, 2**62), F4, False, b""), "too large for an array"),
        ((1, (-1,), F4, False, b""), "negative or beyond 64 bits"),
        ((1, (1,) * 65, F4, False, b"1234"), "at most 64"),
        ((1, (1.5,), F4, False, b"1234"), "that is not at most 64 integers"),
        ((1, (1,), F4, False, None), "has no bytes"),
        ((1, (1,), F4, False), "holds no state dict"),
        ((1,), "with a state that NumPy does not write"),
        ((1, (1,), np.dtype("O"), False, [1]), "holds no state dict"),
        ((1, (1,), np.dtype("f4,i4"), False, b"12345678"), "holds no state dict"),
        ((1, (1,), np.dtype("M8[s]"), False, b"12345678"), "holds no state dict"),
        ((1, [1], F4, False, b"1234"), "holds no state dict"),
    ],
)
def test_states_that_do_not_fit(values, said, tmp_path):
    assert said in cheap_refusal(zip_file(state(*values)), tmp_path)


def test_objects_are_never_made(tmp_path):
    (tmp_path / "f").write_bytes(pickle.dumps({"w": np.array([{}, []], object), "v": np.ones(2)}))
    assert list(read_checkpoint(tmp_path / "f")) == ["v"]
    (tmp_path / "f").write_bytes(pickle.dumps([np.ones(2)]))
    with pytest.raises(CheckpointError, match="holds no state dict: it is a list of 1"):
        read_checkpoint(tmp_path / "f")
