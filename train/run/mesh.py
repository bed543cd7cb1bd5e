"""Which device holds what, and several processes.

A mesh has two axes: `data` splits each batch; `fsdp` splits the batch too, and each parameter with
its moments over its devices. Batch statistics are those of the whole batch, since a step is one
program over all devices.
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
OF_CPU = " (of a CPU, XLA_FLAGS=--xla_force_host_platform_device_count=8 makes eight)"
SMALLEST = 1024  # values; a smaller array is on every device


def start_processes(config: Config) -> None:
    """Join the other processes of the run, if it has any.

    They are those of `--coordinator`, `--num-processes`, `--process-id`, or of the Slurm job, the
    Open MPI job or the TPU pod that this process is a part of.

    Raises: ValueError if only some of the three flags are given, or the others cannot be joined.
    """
    where, count, number = config.coordinator, config.num_processes, config.process_id
    if where is None and count is None and number is None:
        if _many_processes():
            _join()
        return
    if where is None or count is None or number is None:
        raise ValueError("--coordinator, --num-processes and --process-id go together")
    if number >= count:
        raise ValueError(f"--process-id {number} must be below --num-processes {count}")
    _join(where, count, number)


def _join(*which: Any) -> None:
    try:
        jax.distributed.initialize(*which)
    except RuntimeError as error:
        raise ValueError(f"the other processes cannot be joined: {first_line(error)}") from error


def _many_processes() -> bool:
    """Whether a launcher started several processes of this job, by the variables that it sets."""
    # What only `srun` sets: a plain `python` in a batch script has the others too.
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_NODELIST" in os.environ:
        return True
    if int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return True
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def make_mesh(text: str) -> Mesh:
    """`"data=4,fsdp=2"` as a mesh of all devices, of all processes; `""` puts them on `data`.

    Raises: ValueError for another axis, or sizes whose product is not the number of devices.
    """
    devices = jax.devices()
    sizes = {DATA: 1, FSDP: 1} if text else {DATA: len(devices), FSDP: 1}
    for part in text.split(",") if text else ():
        axis, equals, size = part.partition("=")
        if axis not in sizes or not equals or not size.isdecimal() or int(size) < 1:
            raise ValueError(f"--mesh {text} must be such as data=8 or data=4,fsdp=2")
        sizes[axis] = int(size)
    if sizes[DATA] * sizes[FSDP] != len(devices):
        raise ValueError(
            f"--mesh {text} has {sizes[DATA] * sizes[FSDP]} devices, and there are {len(devices)}"
            + OF_CPU * (devices[0].platform == "cpu")
        )
    grid = np.asarray(devices).reshape(sizes[DATA], sizes[FSDP])
    return Mesh(grid, (DATA, FSDP))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of a batch: its rows over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def shardings(mesh: Mesh, tree: Any) -> Any:
    """Of parameters and what has their shapes: the longest axis that `fsdp` divides is split.

    Small arrays, and all without `fsdp`, are on every device.
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
    """The arrays of a tree, whole on every device. Every process must call it."""
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda tree: tree, out_shardings=whole)(tree)


def check_batch(batch_size: int, grad_accum: int, mesh: Mesh) -> None:
    """Raise ValueError unless each device gets as many rows of each accumulated part."""
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
    """What all processes found, in the order of the processes. Every process must call it."""
    if jax.process_count() == 1:
        return found
    data = np.frombuffer(json.dumps(found).encode(), np.uint8)
    longest = multihost_utils.process_allgather(np.asarray(data.size)).max()
    padded = np.pad(data, (0, longest - data.size), constant_values=ord(" "))
    together: dict[str, str] = {}
    for row in multihost_utils.process_allgather(padded):
        together |= json.loads(row.tobytes())
    return together
