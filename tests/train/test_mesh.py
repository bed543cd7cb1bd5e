"""More devices and more processes end where one does, in float64 after ten steps."""

import os
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, PartitionSpec
from safetensors.numpy import load_file

from flaxblocks.demo.digits import checkpoint_path
from flaxblocks.parity import relative_error
from flaxblocks.parity.compiling import quick_to_compile
from tests.train.runs import contents
from train.run.mesh import check_batch, make_mesh, shardings, start_processes, united
from train.saving.damage import check_files
from train.settings.config import Config

BOUND = 1e-10
# Ten steps, with everything random that a step has.
ARGUMENTS = [
    *(
        "--image-size=32",
        "--epochs=2",
        "--batch-size=240",
        "--optimizer=sgd",
        "--lr=0.02",
        "--warmup-epochs=0",
    ),
    *("--ema=0.5", "--mixup=0.2", "--cutmix=1", "--random-erasing=0.5", "--augment=trivial"),
]


def quick_flags() -> str:
    """What makes XLA compile quickly, and a few steps slow, for processes of their own: one flag
    that jaxlib does not know ends them.
    """
    options = quick_to_compile(None, grad=True)
    words = {name: str(v).lower() if isinstance(v, bool) else v for name, v in options.items()}
    return " ".join(f"--{name}={word}" for name, word in words.items())


def start(
    out: Path, *arguments: str, devices: int = 1, moment: str = "never", module: str = ""
) -> subprocess.Popen:
    program = [module] if module else ["tests.train.tiny", moment]
    command = [sys.executable, "-m", *program, *ARGUMENTS, "--out", str(out), *arguments]
    flags = f"{quick_flags()} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        command,
        env={**os.environ, "JAX_ENABLE_X64": "1", "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes: subprocess.Popen, code: int = 0) -> list[str]:
    outputs = [process.communicate()[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == code, output
    return outputs


def start_two(
    out: Path, *arguments: str, moments: tuple[str, str] = ("never", "never")
) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        start(
            out,
            *arguments,
            f"--coordinator=127.0.0.1:{port}",
            "--num-processes=2",
            f"--process-id={process}",
            moment=moments[process],
        )
        for process in range(2)
    ]


def error(out: Path, other: Path) -> float:
    ours, theirs = (load_file(folder / "final.safetensors") for folder in (out, other))
    assert list(ours) == list(theirs)
    assert ours["head.weight" if "head.weight" in ours else "classifier.1.weight"].dtype == float
    return max(relative_error(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one") / "run"
    finish(start(out))
    return out


@pytest.mark.parametrize("mesh", ["data=8", "data=4,fsdp=2"])
def test_eight_devices_end_where_one_does(one: Path, tmp_path: Path, mesh: str) -> None:
    finish(start(tmp_path, "--mesh", mesh, "--grad-accum=1", devices=8))
    assert error(tmp_path, one) < BOUND


def test_two_processes_end_where_one_does(one: Path, tmp_path: Path) -> None:
    """Though one of them is asked to stop, when both save and leave; though one later cannot read
    what was saved, when both say so; and later each goes on with half of every parameter.
    """
    first, second = start_two(tmp_path, moments=("never", "int 4"))
    outputs = finish(first, code=143) + finish(second, code=130)
    saved = {re.search(r"asked to stop: saved after step (\d+) of 10", text) for text in outputs}
    assert None not in saved
    assert len({match[1] for match in saved if match}) == 1
    written = (tmp_path / "config.toml").read_text()  # for others to read, who are one process
    assert "mesh = " in written
    assert not re.search("coordinator = |num-processes = |process-id = ", written)
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    check_files(checkpoint)
    assert "ocdbt.process_1" in (checkpoint / "state" / "files.json").read_text()
    before = contents(checkpoint)
    for output in finish(*start_two(tmp_path, moments=("never", "stale")), code=2):
        assert f"train: checkpoint {checkpoint} cannot be read: Stale file handle; no" in output
    assert contents(checkpoint) == before
    finish(*start_two(tmp_path, "--mesh=data=1,fsdp=2"))
    assert error(tmp_path, one) < BOUND


@pytest.mark.thorough
def test_mobilenet_on_eight_devices_ends_where_one_does(tmp_path: Path) -> None:
    """From trained weights: of fresh ones some statistics are 0 but for rounding."""
    model = ("--width-mult=0.25", f"--weights={checkpoint_path()}")
    finish(start(tmp_path / "one", *model, module="train"))
    for mesh in ("data=8", "data=4,fsdp=2"):
        finish(start(tmp_path / mesh, *model, "--mesh", mesh, devices=8, module="train"))
        assert error(tmp_path / mesh, tmp_path / "one") < BOUND


def test_the_longest_axis_that_can_be_is_split() -> None:
    mesh = AbstractMesh((4, 2), ("data", "fsdp"))
    tree = {
        "kernel": jnp.zeros((3, 3, 64, 96)),
        "odd": jnp.zeros((3, 3, 63, 128)),
        "indivisible": jnp.zeros((63, 65)),
        "bias": jnp.zeros(96),
        "count": jnp.zeros(()),
    }
    specs = jax.tree.map(lambda sharding: sharding.spec, shardings(mesh, tree))  # type: ignore[arg-type]
    assert specs == {
        "kernel": PartitionSpec(None, None, None, "fsdp"),
        "odd": PartitionSpec(None, None, None, "fsdp"),
        "indivisible": PartitionSpec(None, None),
        "bias": PartitionSpec(None),
        "count": PartitionSpec(),
    }
    whole = shardings(AbstractMesh((8, 1), ("data", "fsdp")), tree)  # type: ignore[arg-type]
    assert all(not any(sharding.spec) for sharding in jax.tree.leaves(whole))


@pytest.mark.parametrize("text", ["data", "data=", "data=0", "rows=1", "data=1,model=1", "data=-1"])
def test_a_mesh_that_is_none_is_refused(text: str) -> None:
    rule = "must have a form such as data=8 or data=4,fsdp=2"
    with pytest.raises(ValueError, match=f"^--mesh {text} {rule}"):
        make_mesh(text)


def test_a_mesh_has_all_devices() -> None:
    assert dict(make_mesh("").shape) == {"data": 1, "fsdp": 1}
    with pytest.raises(
        ValueError,
        match=r"^--mesh data=4,fsdp=2 has 8 devices, but there are 1 \(on a CPU, XLA_FLAGS",
    ):
        make_mesh("data=4,fsdp=2")


def test_each_device_has_as_many_rows() -> None:
    check_batch(12, 3, make_mesh(""))
    with pytest.raises(ValueError, match=r"^--batch-size 10 must be divisible by 3: 1 device"):
        check_batch(10, 3, make_mesh(""))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_processes": 2, "process_id": 0}, "must be given together"),
        ({"coordinator": "localhost:1", "num_processes": 2}, "must be given together"),
        (
            {"coordinator": "localhost:1", "num_processes": 2, "process_id": 2},
            r"^--process-id 2 must be below --num-processes 2$",
        ),
    ],
)
def test_what_is_wrong_with_the_processes_is_one_sentence(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        start_processes(Config(**settings))


@pytest.mark.parametrize(
    ("variables", "many"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "node[1-2]"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, False),  # in a batch script, without srun
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "node[1-2]"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, True),
    ],
)
def test_a_launchers_processes_find_each_other(
    variables: dict[str, str], many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JAX knows how, when it is asked to."""
    for name in (
        "SLURM_NTASKS",
        "SLURM_STEP_NODELIST",
        "OMPI_COMM_WORLD_SIZE",
        "TPU_WORKER_HOSTNAMES",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    asked: list[tuple] = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given: asked.append(given))
    start_processes(Config())
    assert asked == ([()] if many else [])
    start_processes(Config(coordinator="host:1", num_processes=2, process_id=1))
    assert asked[-1] == ("host:1", 2, 1)


def test_what_each_process_found_is_united(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads in the place of two processes."""
    meet, given = threading.Barrier(2), {}

    def allgather(value: np.ndarray) -> np.ndarray:
        given[threading.get_ident()] = value
        meet.wait(10)
        rows = np.stack([given[thread] for thread in sorted(given)])
        meet.wait(10)
        return rows

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", allgather)
    found = [{"a.png": "torn", "grün.png": "no image"}, {"c.png": "empty"}]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(united, found))
    assert both[0] == both[1] == found[0] | found[1]
