"""Arrays written come back from torch, from safetensors and from the reader, bit for bit."""

import os
import resource
import stat
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from flaxblocks.checkpoints import atomic_file, torch_save
from flaxblocks.checkpoints.read import CheckpointError, read_checkpoint, write_checkpoint
from flaxblocks.checkpoints.torch_dtypes import DTYPES, DtypeRow
from tests.checkpoints.checkpoint_samples import DTYPES_OF_TORCH

SUFFIXES = [".pth", ".pt", ".safetensors"]


def arrays_of_every_kind(suffix: str, rows: Iterable[DtypeRow] = DTYPES) -> dict[str, np.ndarray]:
    raw = np.random.default_rng(0).integers(0, 256, 16 * 12, np.uint8)
    arrays: dict[str, np.ndarray] = {
        row.torch: (raw[: 12 * row.numpy.itemsize].view(row.numpy)).reshape(3, 4)
        for row in rows
        if suffix != ".safetensors" or row.safetensors is not None
    }
    arrays["bool"] = raw[:12].reshape(3, 4) > 99
    arrays["z.scalar"] = np.array(3, np.int64)
    arrays["empty"] = np.zeros((2, 0, 3), np.float16)
    arrays["transposed"] = arrays["float32"].T
    arrays["reversed"] = arrays["bfloat16"][::-1, ::2]
    arrays["broadcast"] = np.broadcast_to(np.float32(2), (2, 3))
    arrays["big endian"] = np.arange(5, dtype=">i4")
    arrays["big complex"] = np.arange(5, dtype=">c8")
    arrays["a. ünïcode ✓"] = np.ones(1, np.uint8)
    return arrays


def little(array: np.ndarray) -> bytes:
    return array.astype(array.dtype.newbyteorder("=")).tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_read_back(suffix, tmp_path):
    arrays = arrays_of_every_kind(suffix)
    write_checkpoint(arrays, tmp_path / f"f{suffix}")
    found = read_checkpoint(tmp_path / f"f{suffix}")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert found[name].tobytes() == little(array), name


def assert_torch_has(state: dict[str, torch.Tensor], arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        tensor = state[name]
        assert str(tensor.dtype) == f"torch.{array.dtype.newbyteorder('=')}"
        assert tuple(tensor.shape) == array.shape
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == little(array), name


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_torch_reads_it(suffix, mmap, tmp_path):
    arrays = arrays_of_every_kind(suffix, DTYPES_OF_TORCH)
    write_checkpoint(arrays, tmp_path / f"f{suffix}")
    state = torch.load(tmp_path / f"f{suffix}", weights_only=True, mmap=mmap)
    assert type(state) is OrderedDict
    assert list(state) == list(arrays)
    assert_torch_has(state, arrays)


def test_torch_maps_records_of_wide_archives(monkeypatch, tmp_path):
    """Records of a gigabyte have a longer header, which the alignment has to allow for."""
    monkeypatch.setattr(torch_save, "ZIP64_FROM", 10)
    arrays = arrays_of_every_kind(".pth", DTYPES_OF_TORCH)
    write_checkpoint(arrays, tmp_path / "f.pth")
    assert_torch_has(torch.load(tmp_path / "f.pth", mmap=True), arrays)
    assert all(
        array.ctypes.data % 64 == 0 for array in read_checkpoint(tmp_path / "f.pth").values()
    )


def test_the_archive_is_as_torch_makes_them(tmp_path):
    write_checkpoint({"a": np.ones(3, np.float32), "b": np.ones(1)}, tmp_path / "f.pth")
    with zipfile.ZipFile(tmp_path / "f.pth") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            f"archive/{name}" for name in ("data.pkl", "byteorder", "data/0", "data/1", "version")
        ]
        assert archive.read("archive/byteorder") == b"little"
        assert archive.read("archive/version") == b"3\n"
    for array in read_checkpoint(tmp_path / "f.pth").values():
        assert array.ctypes.data % 64 == 0


def test_safetensors_reads_it(tmp_path):
    arrays = arrays_of_every_kind(".safetensors", DTYPES_OF_TORCH)
    write_checkpoint(arrays, tmp_path / "f.safetensors")
    assert_torch_has(safetensors.torch.load_file(tmp_path / "f.safetensors"), arrays)
    with safetensors.safe_open(tmp_path / "f.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
    for array in read_checkpoint(tmp_path / "f.safetensors").values():
        assert array.flags.aligned


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_arrays_give_equal_files(suffix, tmp_path):
    arrays = arrays_of_every_kind(suffix)
    for name in ("one", "two"):
        write_checkpoint(arrays, (tmp_path / name).with_suffix(suffix))
    one, two = ((tmp_path / name).with_suffix(suffix).read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_rewritten_from_its_own_arrays(suffix, tmp_path):
    path = tmp_path / f"f{suffix}"
    write_checkpoint({"w": np.arange(1000.0)}, path)
    write_checkpoint({"v": np.ones(1), **read_checkpoint(path)}, path)
    assert read_checkpoint(path)["w"].sum() == 499500


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_writing_copies_one_array_at_a_time(suffix, tmp_path):
    arrays = {f"w{i}": np.ones((1 << 10, 1 << 8), np.float32).T for i in range(16)}
    write_checkpoint(arrays, tmp_path / f"f{suffix}")
    tracemalloc.start()
    write_checkpoint(arrays, tmp_path / f"f{suffix}")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * 2**20  # two of sixteen arrays of 1 MB each: one made, one not yet let go


# Refusals.


class Foreign:
    dtype = np.dtype(np.float32)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "must hold at least one array"),
        ({1: np.ones(1)}, "the key 1, which must be a str"),
        ({"\ud800": np.ones(1)}, "which is not Unicode"),
        ({"w": [1.0]}, r"arrays\['w'\] \(a list\) must be a NumPy array"),
        ({"w": np.float32(1)}, r"\(a float32\) must be a NumPy array"),
        ({"w": Foreign()}, r"\(a Foreign\) must be a NumPy array"),
        ({"ok": np.ones(1), "w": np.array([None])}, r"arrays\['w'\] has dtype object, which"),
        ({"w": np.array(["x"])}, "has dtype <U1, which"),
        ({"w": np.zeros(1, "M8[s]")}, "has dtype datetime64"),
        ({"w": np.zeros(1, "f4,i4")}, "has dtype"),
        ({"w": np.zeros(1, ml_dtypes.int4)}, "has dtype int4, which"),
        ({"w": np.zeros(1, np.longdouble)}, "has dtype"),
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_wrong_arrays(arrays, said, suffix, tmp_path):
    path = tmp_path / f"f{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=said) as raised:
        write_checkpoint(arrays, path)
    assert not isinstance(raised.value, CheckpointError)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


def test_what_only_safetensors_refuses(tmp_path):
    for arrays in ({"w": np.ones(1, np.complex128)}, {"__metadata__": np.ones(1)}):
        with pytest.raises(ValueError, match="safetensors"):
            write_checkpoint(arrays, tmp_path / "f.safetensors")
        write_checkpoint(arrays, tmp_path / "f.pth")
        assert list(torch.load(tmp_path / "f.pth")) == list(arrays)


@pytest.mark.parametrize("name", ["f.npy", "f", ".pth", "f.pth.bak", "f.ckpt"])
def test_other_suffixes(name, tmp_path):
    with pytest.raises(ValueError, match=r"path \(=.*\) must end in .safetensors, .pth, .pt"):
        write_checkpoint({"w": np.ones(1)}, tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_suffixes_in_capitals(tmp_path):
    write_checkpoint({"w": np.ones(1)}, str(tmp_path / "F.PTH"))
    assert read_checkpoint(tmp_path / "F.PTH")["w"] == 1


# The file system.


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_places_that_cannot_be_written(suffix, tmp_path):
    arrays = {"w": np.ones(1)}
    with pytest.raises(CheckpointError, match="cannot be written: No such file or directory"):
        write_checkpoint(arrays, tmp_path / "none" / f"f{suffix}")
    (tmp_path / f"d{suffix}").mkdir()
    with pytest.raises(CheckpointError, match="cannot be written: Is a directory"):
        write_checkpoint(arrays, tmp_path / f"d{suffix}")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be written: Not a directory"):
        write_checkpoint(arrays, tmp_path / "file" / f"f{suffix}")
    with pytest.raises(CheckpointError, match="cannot be written: File name too long"):
        write_checkpoint(arrays, tmp_path / ("a" * 300 + suffix))
    with pytest.raises(CheckpointError, match="is not a valid path"):
        write_checkpoint(arrays, f"a\0b{suffix}")
    assert sorted(os.listdir(tmp_path)) == sorted([f"d{suffix}", "file"])


@pytest.fixture
def limit_files() -> Iterator[Callable[[int], None]]:
    """Sets a limit on the size of files, which stands in for a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda room: resource.setrlimit(resource.RLIMIT_FSIZE, (room, old[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("room", [0, 100, 5000, 150_000])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_everything_as_it_was(suffix, room, limit_files, tmp_path):
    path = tmp_path / f"f{suffix}"
    path.write_bytes(b"old")
    limit_files(room)
    with pytest.raises(CheckpointError) as raised:
        write_checkpoint({"w": np.ones(10_000), "v": np.ones(10_000)}, path)
    assert str(raised.value) == f"{path} cannot be written: File too large"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


def test_a_failing_replacement_leaves_everything_as_it_was(monkeypatch, tmp_path):
    path = tmp_path / "f.pth"
    path.write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(atomic_file.os, "replace", refuse)
    with pytest.raises(CheckpointError, match="cannot be written: Permission denied"):
        write_checkpoint({"w": np.ones(1)}, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f.pth"]


def test_an_interruption_leaves_nothing(monkeypatch, tmp_path):
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic_file.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint({"w": np.ones(1)}, tmp_path / "f.pth")
    assert os.listdir(tmp_path) == []


def test_permissions_and_links_stay(tmp_path):
    real, link = tmp_path / "real.pth", tmp_path / "link.pth"
    write_checkpoint({"w": np.ones(1)}, real)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(real.stat().st_mode) == 0o666 & ~umask
    real.chmod(0o640)
    link.symlink_to(real.name)
    write_checkpoint({"w": np.zeros(1)}, link)
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert read_checkpoint(real)["w"] == 0
