"""A run whose processes are killed ends to the bit as one that was left alone."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.runs import same_end

ARGUMENTS = [
    *(
        "--image-size=32",
        "--epochs=3",
        "--batch-size=256",
        "--lr=0.01",
        "--warmup-epochs=0.5",
        "--save-every=2",
    ),
    *("--ema=0.5", "--mixup=0.2", "--random-erasing=0.3", "--augment=trivial"),
]


def start(out: Path, moment: str = "never") -> subprocess.Popen:
    """A process that trains the tiny network, and dies at a moment."""
    command = [sys.executable, "-m", "tests.train.tiny", moment, *ARGUMENTS, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    finish(start(out))
    return out


def test_killed_at_the_worst_moments_it_ends_to_the_bit_the_same(
    alone: Path, tmp_path: Path
) -> None:
    moments = {
        "save 1 0": "",  # while the very first checkpoint is written
        "step 4": "",  # between two checkpoints
        "measure 3": "",  # all steps of an epoch are taken
        "row 1": "",  # measured and told, its checkpoint not begun
        "save 3 0.002": "after step",
        "save 1 0.02": "after step",
        "export": "after step",  # all trained, nothing exported
    }
    for moment, told in moments.items():
        process = start(tmp_path / "run", moment)
        output, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"{moment}: {output}"
        assert told in output, moment
        assert not (tmp_path / "run" / "final.safetensors").exists()
    assert f"resuming {tmp_path / 'run'} after step" in finish(start(tmp_path / "run"))
    assert same_end(tmp_path / "run", alone)


@pytest.mark.thorough
def test_killed_at_random_moments_it_ends_to_the_bit_the_same(alone: Path, tmp_path: Path) -> None:
    """Twenty runs, each killed again and again until it is through."""
    draw = random.Random(0)
    killed = 0
    for number in range(20):
        out = tmp_path / str(number)
        while True:
            process = start(out)
            deadline = time.monotonic() + draw.uniform(3, 14)
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
            if process.poll() is not None:
                finish(process)
                break
            process.kill()
            process.communicate()
            killed += 1
        assert same_end(out, alone)
    assert killed > 20
