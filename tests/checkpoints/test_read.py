"""Files that torch and safetensors write come back as the same arrays."""

import os
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
import torch._utils
from safetensors.torch import save_file

from flaxblocks.checkpoints.read import read_checkpoint
from flaxblocks.checkpoints.torch_dtypes import DTYPES
from tests.checkpoints.checkpoint_samples import (
    DTYPES_OF_TORCH,
    FakeStorage,
    FakeTensor,
    legacy_file,
    pickled,
    zip_file,
)

FORMATS = ("zip", "legacy", "safetensors")


def save(state: dict, path: Path, form: str, **options) -> None:
    if form == "safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip", **options)


def bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def assert_same(arrays: dict[str, np.ndarray], state: dict[str, torch.Tensor]) -> None:
    assert list(arrays) == list(state)
    for name, tensor in state.items():
        array = arrays[name]
        assert type(array) is np.ndarray, name
        assert array.shape == tuple(tensor.shape), name
        assert f"torch.{array.dtype}" == str(tensor.dtype), name
        assert array.tobytes() == bits(tensor), name


def random_tensor(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (*shape, dtype.itemsize))
    return raw.to(torch.uint8).view(dtype).reshape(shape)


def test_the_installed_torch_has_the_dtypes():
    """Each is compared with PyTorch's own below, but for one that came with PyTorch 2.7."""
    assert {row.torch for row in DTYPES} - {row.torch for row in DTYPES_OF_TORCH} <= {
        "float8_e8m0fnu"
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("row", DTYPES_OF_TORCH, ids=lambda row: row.torch)
def test_every_dtype_is_kept(row, form, tmp_path):
    if form == "safetensors" and row.safetensors is None:
        form = "zip"
    state = {"a": random_tensor(getattr(torch, row.torch), 3, 5)}
    save(state, tmp_path / "f", form)
    assert_same(read_checkpoint(tmp_path / "f"), state)


@pytest.mark.parametrize("form", FORMATS)
def test_layouts_of_tensors(form, tmp_path):
    base = torch.arange(24.0)
    state = OrderedDict(
        z_first=torch.randn(3),
        scalar=torch.tensor(7, dtype=torch.int64),
        empty=torch.zeros(0, 3),
        transposed=base.reshape(4, 6).t(),
        channels_last=torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        sliced=base[3:20:4],
        expanded=torch.tensor([5.0]).expand(2, 3, 4),
        parameter=torch.nn.Parameter(torch.randn(2, 2)),
        a_last=torch.randn(1),
    )
    save(state, tmp_path / "f", form)
    arrays = read_checkpoint(tmp_path / "f")
    if form == "safetensors":  # whose library orders names itself
        state = {name: state[name] for name in arrays}
        assert len(state) == 9
    assert_same(arrays, state)


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(form, protocol, tmp_path):
    state = {"w": torch.randn(300, 2), "b": torch.randn(3).double()}
    save(state, tmp_path / "f", form, pickle_protocol=protocol)
    assert_same(read_checkpoint(tmp_path / "f"), state)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_shared_storage_gives_both_names_and_one_memory(form, tmp_path):
    weight = torch.randn(4, 4)
    state = {"embed": weight, "head": weight, "row": weight[2]}
    save(state, tmp_path / "f", form)
    arrays = read_checkpoint(tmp_path / "f")
    assert_same(arrays, state)
    assert np.shares_memory(arrays["embed"], arrays["head"])


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_lazy_conjugate_and_negative(form, tmp_path):
    value, other = torch.randn(2, 3, dtype=torch.complex64).unbind()
    state = {"conj": value.conj(), "scalar": value[0].conj(), "neg": other.clone().conj().imag}
    assert state["conj"].is_conj()
    assert state["neg"].is_neg()
    save(state, tmp_path / "f", form)
    assert_same(read_checkpoint(tmp_path / "f"), state)


def test_module_state_dict_with_metadata_and_attributes(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = module.state_dict()
    state["0.weight"].source = "an attribute, which torch saves by _rebuild_from_type_v2"
    torch.save(state, tmp_path / "f")
    assert b"_rebuild_from_type_v2" in (tmp_path / "f").read_bytes()
    assert_same(read_checkpoint(tmp_path / "f"), state)


@pytest.mark.parametrize("row", DTYPES_OF_TORCH, ids=lambda row: row.torch)
def test_big_endian_archive(row, tmp_path):
    tensor = random_tensor(getattr(torch, row.torch), 2, 3)
    state = {"whole": tensor, "transposed": tensor.t(), "scalar": tensor[0, 0]}
    torch.save(state, tmp_path / "little")
    words = bits(tensor)
    assert words in (tmp_path / "little").read_bytes()
    width = row.numpy.itemsize // (2 if row.numpy.kind == "c" else 1)
    swapped = np.frombuffer(words, f"u{width}").byteswap().tobytes()
    with zipfile.ZipFile(tmp_path / "little") as archive:
        program = archive.read("little/data.pkl")
    (tmp_path / "f").write_bytes(zip_file(program, {"0": swapped}, {"byteorder": b"big"}))
    assert_same(read_checkpoint(tmp_path / "f"), state)


def test_archive_with_another_root_and_no_byteorder(tmp_path):
    (tmp_path / "f").write_bytes(zip_file(pickled({"w": FakeTensor()}), root="model_final"))
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "f")["w"], [1, 2, 3, 4])


def test_checksums_are_not_compared(tmp_path):
    state = {"w": torch.randn(100)}
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "f")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(read_checkpoint(tmp_path / "f"), state)


def test_legacy_view_of_a_storage(tmp_path):
    part = FakeStorage(numbers=(4, ("7", 1, 2)))
    whole = FakeStorage(numbers=(4, None))
    tensors = {"part": FakeTensor(0, (2,), (1,), part), "whole": FakeTensor(storage=whole)}
    program = pickled(tensors)
    (tmp_path / "f").write_bytes(legacy_file(program))
    arrays = read_checkpoint(tmp_path / "f")
    np.testing.assert_array_equal(arrays["part"], [2, 3])
    np.testing.assert_array_equal(arrays["whole"], [1, 2, 3, 4])


def test_unaligned_bfloat16_of_a_legacy_file_computes(tmp_path):
    values = torch.randn(33).bfloat16()
    for shift in range(4):  # the pickle's length moves the storage
        save({"w" * (shift + 1): values}, tmp_path / "f", "legacy")
        (array,) = read_checkpoint(tmp_path / "f").values()
        assert array.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(array.astype(np.float32), values.float().numpy())


def test_python_2_pickles(tmp_path):
    """Python 2 wrote byte strings, and `OrderedDict` as a call with a list of pairs."""
    tensor = pickled({"x": FakeTensor()})
    call = tensor[tensor.index(b"ctorch._utils") : tensor.rindex(b"s.")]
    program = b"\x80\x02ccollections\nOrderedDict\n](](U\x03rawU\x02\xff\xfee"
    program += b"](U\x06weight" + call + b"ee\x85R."
    (tmp_path / "f").write_bytes(zip_file(program))
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "f")["weight"], [1, 2, 3, 4])


def test_older_names_of_torch(tmp_path):
    storage = FakeStorage(numbers=(4, None))
    v1 = FakeTensor(storage=storage, function=torch._utils._rebuild_tensor, tail=())
    program = pickled({"v1": v1}).replace(b"ctorch\nFloat", b"ctorch.cuda\nFloat")
    assert b"torch.cuda" in program
    assert b"_rebuild_tensor\n" in program
    (tmp_path / "f").write_bytes(legacy_file(program))
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "f")["v1"], [1, 2, 3, 4])


@pytest.mark.parametrize("form", FORMATS)
def test_arrays_are_read_only_views_of_one_map(form, tmp_path):
    save({"a": torch.randn(1000), "b": torch.randn(3, 3)}, tmp_path / "f", form)
    arrays = read_checkpoint(tmp_path / "f")
    owners = {id(array.base) for array in arrays.values()}
    assert len(owners) == 1
    assert type(arrays["a"].base).__name__ == "mmap"
    assert not any(array.flags.writeable for array in arrays.values())


def test_copies_are_read_only_too(tmp_path):
    torch.save({"c": torch.randn(3, dtype=torch.complex64).conj()}, tmp_path / "f")
    assert not read_checkpoint(tmp_path / "f")["c"].flags.writeable


@pytest.mark.parametrize("form", FORMATS)
def test_reading_takes_no_memory_of_its_own(form, tmp_path):
    save({f"w{i}": torch.zeros(1 << 20) for i in range(8)}, tmp_path / "f", form)
    read_checkpoint(tmp_path / "f")  # imports
    tracemalloc.start()
    arrays = read_checkpoint(tmp_path / "f")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(array.nbytes for array in arrays.values()) == 32 * 2**20
    assert peak < 2**20  # measured: 60 KB


def test_arrays_outlive_the_file(tmp_path):
    torch.save({"w": torch.ones(5)}, tmp_path / "f")
    arrays = read_checkpoint(tmp_path / "f")
    os.remove(tmp_path / "f")
    assert arrays["w"].sum() == 5


def test_import_is_light():
    """The reader alone needs neither jax nor torch nor safetensors."""
    program = """
import sys, types
for name in ("flaxblocks", "flaxblocks.convert"):  # the packages' own imports are not meant
    sys.modules[name] = package = types.ModuleType(name)
    package.__path__ = [name.replace(".", "/")]
import flaxblocks.checkpoints.read
print(*{"jax", "flax", "torch", "safetensors"} & set(sys.modules))
"""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""
