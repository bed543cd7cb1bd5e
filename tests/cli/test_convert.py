"""`flaxblocks convert`: there and back to the bit, and every way to get it wrong."""

import os
import re
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
from flax import nnx

import flaxblocks as fb
from flaxblocks.checkpoints import orbax_folder
from flaxblocks.checkpoints.write import ROWS
from flaxblocks.create.convert_file import Conversion, convert_file
from flaxblocks.create.report import LoadReport
from flaxblocks.models.registry import find_model
from tests.cli.conftest import SMALL, TINY, Refuse, Run, snapshot

State = dict[str, np.ndarray]


def same(a: State, b: State) -> bool:
    return list(a) == list(b) and all(
        a[key].dtype == b[key].dtype
        and a[key].shape == b[key].shape
        and a[key].tobytes() == b[key].tobytes()
        for key in a
    )


@pytest.mark.parametrize("middle", ["flax.safetensors", "flax.orbax", "folder", "timm.pt"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_there_and_back_is_bit_exact(
    middle: str, dtype: type, run: Run, here: Path, state: State
) -> None:
    narrow = {k: v.astype(dtype) if v.dtype == np.float32 else v for k, v in state.items()}
    narrow = {k: np.int64(2**40) if v.ndim == 0 else v for k, v in narrow.items()}  # past int32
    narrow = {k: np.asarray(v) for k, v in narrow.items()}
    fb.write_checkpoint(narrow, "in.pth")
    timm = ["--layout", "timm"] if middle.startswith("timm") else []
    there = run("convert", "in.pth", middle, *SMALL, *timm)
    assert there[::2] == (0, "")
    assert there.out.startswith(f"{middle}: {len(state)} arrays")
    back = run("convert", middle, "back.pth", *SMALL)
    assert back[::2] == (0, "")
    assert same(fb.read_checkpoint("back.pth"), narrow)
    assert Path("back.pth").read_bytes() == Path("in.pth").read_bytes()
    assert sorted(os.listdir()) == sorted(["in.pth", middle, "back.pth"])


def test_the_written_pth_is_what_torch_reads(run: Run, checkpoint: Path, state: State) -> None:
    run("convert", checkpoint, "flax.safetensors", *SMALL)
    run("convert", "flax.safetensors", "back.pth", *SMALL)
    loaded = torch.load("back.pth", weights_only=True)
    assert isinstance(loaded, OrderedDict)
    assert same({key: value.numpy() for key, value in loaded.items()}, state)


@pytest.mark.parametrize("target", ["flax.safetensors", "folder"])
def test_a_converted_file_makes_the_same_model(
    target: str, run: Run, checkpoint: Path, state: State
) -> None:
    run("convert", checkpoint, target, *SMALL)
    model = fb.create_model("mobilenet_v2", weights=target, **TINY)
    assert model.num_classes == 10
    assert same(fb.to_torch(model, "torchvision"), state)


def test_the_report_counts_arrays_and_bytes(checkpoint: Path, state: State) -> None:
    done = convert_file(
        checkpoint,
        "out.safetensors",
        find_model("mobilenet_v2"),
        TINY,
        layout="timm",
    )
    size = sum(array.nbytes for array in state.values())
    report = LoadReport("torchvision", len(state))
    assert done == Conversion(
        find_model("mobilenet_v2"),
        "torchvision",
        "timm",
        "safetensors",
        len(state),
        size,
        report,
    )


def test_the_timm_layout_has_timms_names(run: Run, checkpoint: Path, state: State) -> None:
    ran = run("convert", checkpoint, "timm.safetensors", "--layout", "timm", *SMALL)
    assert "torchvision -> timm (safetensors)" in ran.out
    written = fb.read_checkpoint("timm.safetensors")
    assert list(written)[:2] == ["conv_stem.weight", "bn1.weight"]
    np.testing.assert_array_equal(written["classifier.bias"], state["classifier.1.bias"])


def test_an_orbax_folder_that_jax_wrote_converts(run: Run, here: Path, state: State) -> None:
    model = fb.create_model("mobilenet_v2", weights=state, **TINY)
    tree = nnx.to_pure_dict(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(here / "mine", tree)
    ran = run("convert", "mine", "out.pth", *SMALL)
    assert ran[::2] == (0, "")
    written = fb.read_checkpoint("out.pth")
    assert list(written) == list(state)
    assert all(np.array_equal(written[key], state[key]) for key in state)


def test_overwrite_replaces_a_file_and_an_orbax_folder(run: Run, checkpoint: Path) -> None:
    for target in ("flax.safetensors", "folder"):
        run("convert", checkpoint, target, *SMALL)
        first = fb.create_model("mobilenet_v2", weights=target, **TINY)
        other = {
            k: np.asarray(v + v.dtype.type(1)) for k, v in fb.read_checkpoint(checkpoint).items()
        }
        fb.write_checkpoint(other, "other.pth")
        assert run("convert", "other.pth", target, "--overwrite", *SMALL).status == 0
        second = fb.create_model("mobilenet_v2", weights=target, **TINY)
        assert float(second.head.bias[0]) == pytest.approx(float(first.head.bias[0]) + 1)
    assert sorted(os.listdir()) == ["flax.safetensors", "folder", "in.pth", "other.pth"]


@pytest.mark.parametrize(
    ("target", "options", "written"),
    [("OUT.PTH", (), "(pth)"), ("step.500", ("--to", "orbax"), "(orbax)")],
)
def test_the_suffix_is_read_in_capitals_and_a_folder_may_have_any(
    target: str, options: tuple[str, ...], written: str, run: Run, checkpoint: Path, state: State
) -> None:
    ran = run("convert", checkpoint, target, *options, *SMALL)
    assert ran[::2] == (0, "")
    assert written in ran.out
    model = fb.create_model("mobilenet_v2", weights=f"./{target}", **TINY)
    assert same(fb.to_torch(model, "torchvision"), state)


def test_a_link_to_nowhere_is_not_replaced_unasked(refuse: Refuse, checkpoint: Path) -> None:
    Path("out.pth").symlink_to("gone.pth")
    refuse("convert", checkpoint, "out.pth", *SMALL, named="'out.pth' exists already")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("out.npy",), "out.npy"),
        (("out.v2",), "out.v2"),
        (("out.safetensors", "--to", "pth"), "out.safetensors"),
        (("out", "--to", "pth"), "'out'"),
        (("out.pth", "--to", "orbax"), "out.pth"),
        (("out.pth", "--to", "onnx"), "onnx"),
        (("missing/out.pth",), "missing/out.pth"),
        (("in.pth/out.pth",), "in.pth/out.pth"),
        (("in.pth",), "in.pth"),
        (("in.pth", "--overwrite"), "in.pth"),
        (("there.pth",), "there.pth"),
        (("folder.pth", "--overwrite"), "folder.pth"),
        (("folder", "--overwrite"), "folder"),
        (("there", "--overwrite", "--to", "orbax"), "there"),
        (("out.pth", "--layout", "caffe"), "caffe"),
        (("out", "--layout", "timm"), "timm"),
        (
            ("out.pth", "--num-classes", "7"),
            "must be the checkpoint's 10 or 0, without a head",
        ),
        (("out.pth", "--in-channels", "1"), "must be the checkpoint's 3"),
        (("out.pth", "--set", "depth_mult=2"), "features."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_target_or_option_is_refused(
    arguments: tuple[str, ...], named: str, refuse: Refuse, checkpoint: Path
) -> None:
    Path("there.pth").write_text("precious")
    Path("there").write_text("precious")
    for folder in ("folder", "folder.pth"):
        Path(folder).mkdir()
        (Path(folder) / "precious").write_text("precious")
    refuse("convert", checkpoint, *arguments, *SMALL, named=named)


def test_another_model_is_refused_in_one_short_line(refuse: Refuse, checkpoint: Path) -> None:
    options = ("--model", "mobilenetv2_035")
    sentence = refuse("convert", checkpoint, "out.pth", *options, named="features.0.0.weight")
    assert re.search(r"missing: features\S+, features\S+, features\S+ and \d+ more", sentence)
    assert len(sentence) < 600
    refuse("convert", checkpoint, "out.pth", "--model", "mobilenet_v9", named="mobilenet_v2")
    refuse("convert", checkpoint, "out.pth", named="--model")


BAD_FILES = {
    "truncated.pth": lambda raw: raw[: len(raw) // 2],
    "flipped_name.pth": lambda raw: raw.replace(b"features.0.1.bias", b"features.0.1.bi!s", 1),
    "flipped_magic.pth": lambda raw: bytes([raw[0] ^ 4]) + raw[1:],
    "no_directory.pth": lambda raw: raw[:-30],
    "text.pth": lambda raw: b"these are no weights\n" * 30,
    "junk.pth": lambda raw: np.random.default_rng(0).bytes(4000),
    "junk.safetensors": lambda raw: np.random.default_rng(1).bytes(4000),
    "zeros.pth": lambda raw: bytes(4000),
    "empty.pth": lambda raw: b"",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_damaged_file_is_refused(name: str, refuse: Refuse, checkpoint: Path) -> None:
    Path(name).write_bytes(BAD_FILES[name](checkpoint.read_bytes()))
    named = "features.0.1.bi!s" if name == "flipped_name.pth" else name
    refuse("convert", name, "out.safetensors", *SMALL, named=named)


@pytest.mark.parametrize("cut", [5, 500, -1])
def test_a_cut_safetensors_file_is_refused(
    cut: int, refuse: Refuse, run: Run, checkpoint: Path
) -> None:
    run("convert", checkpoint, "whole.safetensors", *SMALL)
    Path("cut.safetensors").write_bytes(Path("whole.safetensors").read_bytes()[:cut])
    refuse("convert", "cut.safetensors", "out.pth", *SMALL, named="cut.safetensors")


def test_what_is_no_file_is_refused(refuse: Refuse, here: Path) -> None:
    Path("folder").mkdir()
    Path("folder/note").write_text("no Orbax")
    for source in ("missing.pth", "folder", "/dev/null"):
        refuse("convert", source, "out.pth", *SMALL, named=source)
    refuse("convert", "", "out.pth", *SMALL)


def test_an_orbax_folder_of_something_else_is_refused(refuse: Refuse, here: Path) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(here / "other", {"layers": [np.ones(3)], "step": 5})
    refuse(
        "convert", "other", "out.pth", *SMALL, named="it has keys such as layers.0, step, the model"
    )


def test_keys_that_do_not_add_up_are_named(refuse: Refuse, here: Path, state: State) -> None:
    key = "features.3.conv.1.1.weight"
    wrong: dict[str, State] = {
        "missing": {k: v for k, v in state.items() if k != key},
        "unexpected": {**state, "extra.weight": np.ones(3, np.float32)},
        "misshaped": {**state, key: state[key][:-1]},
    }
    for fault, arrays in wrong.items():
        fb.write_checkpoint(arrays, "wrong.pth")
        sentence = refuse("convert", "wrong.pth", "out.safetensors", *SMALL, named=f"1 {fault}")
        assert ("extra.weight" if fault == "unexpected" else key) in sentence


def test_a_checkpoint_of_another_architecture_is_named_as_such(refuse: Refuse, here: Path) -> None:
    from torchvision.models import resnet18  # tests/conftest.py makes it importable

    torch.save(resnet18(num_classes=10).state_dict(), "resnet18.pth")
    refuse(
        "convert",
        "resnet18.pth",
        "out.safetensors",
        *SMALL,
        named="it is one of resnet18 or resnetblur18",
    )


@pytest.mark.parametrize(("failure", "status"), [(KeyboardInterrupt(), 130), (OSError(28, "f"), 2)])
@pytest.mark.parametrize("target", ["out.safetensors", "there.safetensors"])
def test_a_write_that_stops_halfway_leaves_nothing(
    failure: BaseException,
    status: int,
    target: str,
    run: Run,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(arrays, file) -> None:
        file.write(b"half")
        raise failure

    monkeypatch.setitem(ROWS, ".safetensors", replace(ROWS[".safetensors"], write=stop))
    Path("there.safetensors").write_text("old")
    before = snapshot(Path())
    assert run("convert", checkpoint, target, "--overwrite", *SMALL).status == status
    assert snapshot(Path()) == before


def test_an_orbax_folder_that_cannot_be_written_is_a_checkpoint_error(
    here: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(orbax_folder, "_swap", stop)
    with pytest.raises(fb.CheckpointError, match="out cannot be written: No space left"):
        orbax_folder.write_orbax({"head.bias": state["classifier.1.bias"]}, here / "out")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(("failure", "status"), [(KeyboardInterrupt(), 130), (OSError(28, "f"), 2)])
def test_an_orbax_folder_is_there_whole_or_not_at_all(
    failure: BaseException,
    status: int,
    run: Run,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run("convert", checkpoint, "there", *SMALL)
    before = snapshot(Path())
    move = Path.replace

    def stop(self: Path, target: Path) -> Path:  # when the old folder has been moved away
        if self.name == "checkpoint":
            raise failure
        return move(self, target)

    monkeypatch.setattr(Path, "replace", stop)
    for target in ("out", "there"):
        assert run("convert", checkpoint, target, "--overwrite", *SMALL).status == status
        assert snapshot(Path()) == before
