"""NumPy's archives of arrays."""

import zipfile

import ml_dtypes
import numpy as np
import pytest

from flaxblocks.checkpoints.read import read_checkpoint, write_checkpoint
from tests.checkpoints.checkpoint_samples import (
    cheap_refusal,
    npy,
)

ARRAYS = {
    "a.w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "f": np.asfortranarray(np.arange(4.0).reshape(2, 2)),
    "s": np.array(3),
    "big": np.arange(3, dtype=">i4"),
    "empty": np.zeros((0, 2)),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save, tmp_path):
    save(tmp_path / "f.npz", **ARRAYS)
    found = read_checkpoint(tmp_path / "f.npz")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert not found[name].flags.writeable


def test_a_folder_in_an_npz_is_no_array(tmp_path):
    np.savez(tmp_path / "f.npz", w=np.ones(2))
    with zipfile.ZipFile(tmp_path / "f.npz", "a") as archive:
        archive.writestr("more/", b"")
    assert list(read_checkpoint(tmp_path / "f.npz")) == ["w"]


def test_npz_is_written_as_numpy_reads_it(tmp_path):
    write_checkpoint(ARRAYS, tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz") as found:
        assert list(found) == list(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype.isnative
    with zipfile.ZipFile(tmp_path / "f.npz") as archive:
        assert {record.date_time[0] for record in archive.infolist()} == {1980}
    assert list(read_checkpoint(tmp_path / "f.npz")) == list(ARRAYS)
    write_checkpoint(ARRAYS, tmp_path / "g.npz")
    assert (tmp_path / "f.npz").read_bytes() == (tmp_path / "g.npz").read_bytes()
    with pytest.raises(ValueError, match=r"has dtype bfloat16, which \.npz cannot hold"):
        write_checkpoint({"w": np.ones(1, ml_dtypes.bfloat16)}, tmp_path / "h.npz")


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (4,)}"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (GOOD.replace("4,", "5,"), "16 bytes, not 20"),
        (GOOD.replace("(4,)", "(-4,)"), "negative"),
        (GOOD.replace("(4,)", "(2**70,)"), "header that is damaged"),
        (GOOD.replace("(4,)", "(99999999999999999999,)"), "beyond 64 bits"),
        (GOOD.replace("(4,)", "4"), "header that is damaged"),
        (GOOD.replace("<f4", "|O"), "the dtype '|O', which holds no numbers"),
        (GOOD.replace("<f4", "|V4"), "which holds no numbers"),
        (GOOD.replace("'<f4'", "[('a', '<f4')]"), "which holds no numbers"),
        (GOOD[:-1], "header that is damaged"),
        ("(" * 5000, "header that is damaged"),
        ("__import__('os')", "header that is damaged"),
        ("", "header that is damaged"),
        (" " * 20_000, "cut short or too long"),
    ],
)
def test_npz_headers_that_lie(header, said, tmp_path):
    assert said in cheap_refusal(npy(header), tmp_path)
    (tmp_path / "g").write_bytes(npy(GOOD))
    assert read_checkpoint(tmp_path / "g")["w"].shape == (4,)
