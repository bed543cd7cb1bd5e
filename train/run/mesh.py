"""The placement of arrays on devices, and runs of several processes.

A mesh has two axes: `data` splits each batch, and `fsdp` splits both the batch and the parameters
with their moments. Batch statistics are those of the whole batch, because a step is one program
over all devices.
"""

import json
import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.data.pipeline import Share
from train.saving.disk import first_line
from train.settings.config import Config

__all__ = [
    "batch_sharding",
    "check_batch",
    "gathered",
    "make_mesh",
    "put_batch",
    "shardings",
    "share_of_process",
    "start_processes",
    "united",
]

DATA, FSDP = "data", "fsdp"
OF_CPU = " (on a CPU, XLA_FLAGS=--xla_force_host_platform_device_count=8 makes eight)"
SMALLEST = 1024  # values; a smaller array is replicated


def start_processes(config: Config) -> None:
    """Connect to the other processes of the run, if there are any.

    They are given by `--coordinator`, `--num-processes` and `--process-id`, or by the Slurm job,
    Open MPI job or TPU pod that this process belongs to.

    Raises: ValueError if only some of the three flags are given, or the connection fails.
    """
    where, count, number = config.coordinator, config.num_processes, config.process_id
    if where is None and count is None and number is None:
        if _many_processes():
            _join()
        return
    if where is None or count is None or number is None:
        raise ValueError("--coordinator, --num-processes and --process-id must be given together")
    if number >= count:
        raise ValueError(f"--process-id {number} must be below --num-processes {count}")
    _join(where, count, number)


def _join(*which: Any) -> None:
    try:
        jax.distributed.initialize(*which)
    except RuntimeError as error:
        raise ValueError(f"cannot connect to the other processes: {first_line(error)}") from error


def _many_processes() -> bool:
    """Whether a launcher started several processes of this job, judged by environment variables."""
    # Only `srun` sets SLURM_STEP_NODELIST; a plain `python` in a batch script has the others too.
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_NODELIST" in os.environ:
        return True
    if int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return True
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def make_mesh(text: str) -> Mesh:
    """Make a mesh of all devices of all processes.

    Args:
        text: the size of each axis, such as `"data=4,fsdp=2"`; `""` puts all devices on `data`.

    Raises: ValueError for an unknown axis, or sizes whose product is not the number of devices.
    """
    devices = jax.devices()
    sizes = {DATA: 1, FSDP: 1} if text else {DATA: len(devices), FSDP: 1}
    for part in text.split(",") if text else ():
        axis, equals, size = part.partition("=")
        if axis not in sizes or not equals or not size.isdecimal() or int(size) < 1:
            raise ValueError(f"--mesh {text} must have a form such as data=8 or data=4,fsdp=2")
        sizes[axis] = int(size)
    if sizes[DATA] * sizes[FSDP] != len(devices):
        raise ValueError(
            f"--mesh {text} has {sizes[DATA] * sizes[FSDP]} devices, but there are {len(devices)}"
            + OF_CPU * (devices[0].platform == "cpu")
        )
    grid = np.asarray(devices).reshape(sizes[DATA], sizes[FSDP])
    return Mesh(grid, (DATA, FSDP))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its rows are split over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def shardings(mesh: Mesh, tree: Any) -> Any:
    """The shardings of parameters and of arrays with their shapes: `fsdp` splits the longest axis
    that it divides.

    Small arrays, and all arrays if `fsdp` is 1, are replicated on every device.
    """
    size = mesh.shape[FSDP]

    def one(array: Any) -> NamedSharding:
        axes = [axis for axis, length in enumerate(array.shape) if length % size == 0]
        spec: list[str | None] = [None] * len(array.shape)
        if size > 1 and axes and array.size >= SMALLEST:
            spec[max(axes, key=lambda axis: array.shape[axis])] = FSDP
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(one, tree)


def gathered(mesh: Mesh, tree: Any) -> Any:
    """Replicate the arrays of a tree on every device. Every process must call it."""
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda tree: tree, out_shardings=whole)(tree)


def check_batch(batch_size: int, grad_accum: int, mesh: Mesh) -> None:
    """Raise ValueError unless each accumulated part can be split evenly over the devices."""
    parts = grad_accum * mesh.size
    if batch_size % parts:
        devices = "device" if mesh.size == 1 else "devices"
        raise ValueError(
            f"--batch-size {batch_size} must be divisible by {parts}: {mesh.size} {devices} times "
            f"--grad-accum {grad_accum}"
        )


def share_of_process() -> Share:
    """The rows that this process reads."""
    return Share(jax.process_index(), jax.process_count())


def put_batch(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This process's rows as part of the global batch."""
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }


def united(found: dict[str, str]) -> dict[str, str]:
    """Merge the findings of all processes, in their order. Every process must call it."""
    if jax.process_count() == 1:
        return found
    data = np.frombuffer(json.dumps(found).encode(), np.uint8)
    longest = multihost_utils.process_allgather(np.asarray(data.size)).max()
    padded = np.pad(data, (0, longest - data.size), constant_values=ord(" "))
    together: dict[str, str] = {}
    for row in multihost_utils.process_allgather(padded):
        together |= json.loads(row.tobytes())
    return together
