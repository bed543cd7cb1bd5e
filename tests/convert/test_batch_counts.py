"""Batch counts are read as PyTorch reads them, from memory and from files, and written as read."""

from pathlib import Path

import jax
import numpy as np
import pytest
import torch

import flaxblocks as fb
from flaxblocks.create.convert_file import convert_file
from flaxblocks.models.registry import find_model
from tests.convert.conftest import CONFIG
from tests.support import equal_arrays

ROW, WIDTH = find_model("mobilenet_v2"), {"width_mult": CONFIG["width_mult"]}
INF, NAN = float("inf"), float("nan")
COUNTS: dict[str, torch.Tensor] = {
    "an average": torch.tensor(1234.7),
    "an average in float64": torch.tensor(3.999999999, dtype=torch.float64),
    "an average below 0": torch.tensor(-3.7),
    "infinite": torch.tensor(INF),
    "infinite below 0": torch.tensor(-INF, dtype=torch.float64),
    "no number": torch.tensor(NAN),
    "past float16": torch.tensor(1e6, dtype=torch.float16),
    "past int64": torch.tensor(1e30, dtype=torch.bfloat16),
    "no number in float8": torch.tensor(NAN, dtype=torch.float8_e5m2),
    "infinite in float8": torch.tensor(INF, dtype=torch.float8_e5m2),
    "an average in float8": torch.tensor(3.7, dtype=torch.float8_e4m3fn),
    "past int32": torch.tensor(2**40),
    "below int32": torch.tensor(-(2**40)),
    "past int64 in uint64": torch.tensor(2**64 - 3, dtype=torch.uint64),
    "below 0": torch.tensor(-5),
    "true": torch.tensor(True),
    "one byte": torch.tensor(200, dtype=torch.uint8),
    "halved": torch.tensor(12.0, dtype=torch.float16),
    "a list of one": torch.tensor([7]),
    "a list of one average": torch.tensor([7.6], dtype=torch.float16),
}
KEY = "features.0.1.num_batches_tracked"
INT32 = np.iinfo(np.int32)


def as_torch_reads(count: torch.Tensor) -> int:
    """What a batch norm of PyTorch's holds when it has loaded `count`."""
    norm = torch.nn.BatchNorm2d(1)
    norm.load_state_dict({**norm.state_dict(), "num_batches_tracked": count})
    return int(norm.num_batches_tracked)  # type: ignore[arg-type]


def as_int32(count: int) -> int:
    """What a model has room for."""
    return max(INT32.min, min(count, INT32.max))


@pytest.mark.parametrize("count", COUNTS.values(), ids=COUNTS)
def test_a_layer_reads_a_count_as_pytorch_does(count):
    norm = fb.nn.BatchNorm(1)
    state = {**torch.nn.BatchNorm2d(1).state_dict(), "num_batches_tracked": count}
    report = fb.load_torch(norm, state)
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked[...].shape == ()
    assert int(norm.num_batches_tracked[...]) == as_int32(as_torch_reads(count))
    assert report.loaded == 5


def test_a_count_that_a_model_has_no_room_for_is_reported():
    norm = fb.nn.BatchNorm(1)
    state = torch.nn.BatchNorm2d(1).state_dict()
    assert not fb.load_torch(norm, state).cast
    state["num_batches_tracked"] = torch.tensor(2**40)
    assert fb.load_torch(norm, state).cast == (("num_batches_tracked", "int64", "int32"),)


@pytest.mark.parametrize("target", ["flax.safetensors", "timm.pth", "folder"])
def test_what_convert_writes_is_read_as_pytorch_reads_its_source(target, state, tmp_path: Path):
    saved = {key: torch.from_numpy(value) for key, value in state.items()}
    keys = [key for key in state if key.endswith("num_batches_tracked")]
    counts = dict(zip(keys, COUNTS.values(), strict=False))
    assert len(counts) == len(COUNTS)
    saved |= counts
    torch.save(saved, tmp_path / "in.pth")

    layout = "timm" if target.startswith("timm") else "flax"
    convert_file(tmp_path / "in.pth", tmp_path / target, ROW, WIDTH, layout=layout)
    expected = {key: as_torch_reads(count) for key, count in counts.items()}
    for weights in (tmp_path / "in.pth", saved, tmp_path / target):
        model = fb.create_model("mobilenet_v2", weights=weights, width_mult=CONFIG["width_mult"])
        read = fb.to_torch(model, "torchvision")
        assert {key: int(read[key]) for key in counts} == {
            key: as_int32(count) for key, count in expected.items()
        }
        assert equal_arrays({**read, **{key: state[key] for key in counts}}, state)
    convert_file(tmp_path / target, tmp_path / "back.pth", ROW, WIDTH, layout="torchvision")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(back) == list(state)
    for key, count in counts.items():
        assert back[key].shape == ()
        assert as_torch_reads(back[key]) == expected[key]
        whole = count.double() == expected[key]
        assert back[key].dtype == (count.dtype if whole else torch.int64), key


@pytest.mark.parametrize("shape", [(0,), (2,), (1, 1)])
def test_a_count_of_a_shape_that_pytorch_refuses_is_refused(shape, model, state, tmp_path: Path):
    state[KEY] = np.ones(shape, np.int64)
    with pytest.raises(fb.ConversionError, match=rf"1 misshaped: {KEY} has shape"):
        fb.load_torch(model, state)
    fb.write_checkpoint(state, tmp_path / "in.pth")
    with pytest.raises(fb.ConversionError, match=rf"1 misshaped: {KEY} has shape"):
        convert_file(tmp_path / "in.pth", tmp_path / "out.safetensors", ROW, WIDTH)
    assert not (tmp_path / "out.safetensors").exists()


WEIGHT = "features.0.0.weight"


@pytest.mark.parametrize(
    ("key", "dtype"),
    [
        (WEIGHT, np.int64),
        (WEIGHT, np.uint8),
        (WEIGHT, np.bool_),
        (WEIGHT, np.complex64),
        (KEY, np.complex64),
    ],
)
def test_a_kind_of_number_that_the_library_refuses_is_not_written(
    key, dtype, model, state, tmp_path: Path
):
    state[key] = np.asarray(state[key].astype(dtype))
    message = rf"{key} holds {np.dtype(dtype)}, but the model .*: another kind of number"
    with pytest.raises(fb.ConversionError, match=message):
        fb.load_torch(model, state)
    fb.write_checkpoint(state, tmp_path / "in.pth")
    with pytest.raises(fb.ConversionError, match=message):
        convert_file(tmp_path / "in.pth", tmp_path / "out.safetensors", ROW, WIDTH)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_wide_number_is_written_for_a_wide_model(model, state, tmp_path: Path):
    """float32 has none of 1e300, and a model of float64 has."""
    state = {k: v.astype(np.float64) if v.ndim else v for k, v in state.items()}
    state[WEIGHT][0] = 1e300
    fb.write_checkpoint(state, tmp_path / "in.pth")
    convert_file(tmp_path / "in.pth", tmp_path / "wide.safetensors", ROW, WIDTH)
    with jax.enable_x64(True):
        wide = fb.create_model(
            "mobilenet_v2",
            weights=tmp_path / "wide.safetensors",
            width_mult=CONFIG["width_mult"],
            param_dtype="float64",
        )
    assert equal_arrays(fb.to_torch(wide, "torchvision"), state)
