"""The command run in this process, a small checkpoint, and what a mistake must look like."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import flaxblocks as fb
from flaxblocks.cli.main import main

ROWS = [[1, 16, 1, 1], [6, 24, 2, 2]]  # three blocks for seventeen: a build in a fifth of the time
TINY = {"width_mult": 0.25, "inverted_residual_setting": ROWS}
SMALL = ("--model", "mobilenet_v2", "--width-mult", "0.25")
SMALL = (*SMALL, "--set", f"inverted_residual_setting={ROWS}")


class Ran(NamedTuple):
    """How a command ended."""

    status: int | str | None
    out: str
    err: str


Run = Callable[..., Ran]
Refuse = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `flaxblocks ARGUMENTS`."""

    def go(*arguments: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Ran(exit.value.code, printed.out, printed.err)

    return go


@pytest.fixture
def refuse(run: Run, here: Path) -> Refuse:
    """Run a command that must stop: status 2, one line on stderr with `named` in it, no file
    touched.
    """

    def go(*arguments: object, named: str = "") -> str:
        before = snapshot(here)
        ran = run(*arguments)
        assert ran.status == 2, ran
        assert ran.out == ""
        assert ran.err.startswith("flaxblocks: ")
        assert ran.err.count("\n") == 1
        assert ran.err.endswith("\n")
        assert named in ran.err
        assert "Traceback" not in ran.err
        assert snapshot(here) == before
        return ran.err

    return go


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def state() -> dict[str, np.ndarray]:
    """The state dict of a small MobileNetV2 with 10 classes, no two of its values' arrays alike."""
    model = fb.create_model("mobilenet_v2", **TINY, num_classes=10)
    arrays, draw = fb.to_torch(model), np.random.default_rng(0)
    for key, array in arrays.items():
        if key.endswith(("running_mean", "running_var")):
            arrays[key] = draw.uniform(0.5, 1.5, array.shape).astype(np.float32)
        elif key.endswith("num_batches_tracked"):
            arrays[key] = np.asarray(draw.integers(1, 100))
    return arrays


@pytest.fixture
def checkpoint(here: Path, state: dict[str, np.ndarray]) -> Path:
    """`state` as `in.pth` in the working folder."""
    fb.write_checkpoint(state, here / "in.pth")
    return Path("in.pth")
