"""A network that compiles in a second, for tests of the run around it; and a process of its own
that trains it and may be killed at a chosen moment: `python -m tests.train.tiny MOMENT ARGUMENTS`.
"""

import errno
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib.abc import MetaPathFinder
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import flaxblocks as fb
import train.run.plan
from train.settings.config import Config

__all__ = ["Tiny", "build_tiny"]


class Tiny(nnx.Module):
    """Images of 32x32: convolution, batch norm, ReLU; dropout; linear layer."""

    def __init__(self, num_classes: int, dtype: Any, rngs: nnx.Rngs):
        wide: Any = {"dtype": dtype, "param_dtype": jnp.result_type(float), "rngs": rngs}
        self.stem = fb.blocks.ConvNormAct(3, 8, 3, stride=4, bias=False, **wide)
        self.dropout = fb.nn.Dropout(0.1, rngs=rngs)
        self.head = fb.nn.Linear(512, num_classes, **wide)
        self.num_classes = num_classes

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x).transpose(0, 3, 1, 2).reshape(len(x), -1)
        return self.head(self.dropout(x))

    @staticmethod
    def _names(_: "Tiny") -> Iterator[tuple[str, str]]:
        yield "stem.conv", "conv"
        yield "stem.norm", "norm"
        yield "head", "head"

    layouts = {"twin": _names}


def build_tiny(config: Config, num_classes: int | None) -> Tiny:
    """In the place of `train.network.build.build_model`."""
    dtype = jnp.bfloat16 if config.dtype == "bfloat16" else None
    return Tiny(num_classes or 10, dtype, nnx.Rngs(config.seed))


class WithoutTorch(MetaPathFinder):
    """Finds no PyTorch: training needs none, and TensorBoard's writer imports it where it is."""

    def find_spec(self, fullname: str, *_: Any) -> None:
        if fullname == "torch":
            raise ModuleNotFoundError(fullname)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fail_to_read() -> None:
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def _die_at(moment: str) -> None:
    """Prepare the end of this process.

    Moments: `step N`, before step N; `save N SECONDS`, that long after the Nth checkpoint began to
    be written; `measure N`, before the Nth batch of evaluation; `row N`, when the Nth line of
    metrics is written and its checkpoint not begun; `export`, when all is trained and nothing
    exported; `never`.

    No death are `term N` and `int N`, which ask to stop before step N; `full N BYTES`: from the
    Nth checkpoint on no file may be larger; `stale`: no arrays of a checkpoint can be read.
    """
    from train.run import evaluation, loop, records
    from train.saving import checkpoints, damage

    kind, *numbers = moment.split()

    def counted(owner: Any, name: str, strike: Callable[[], None], *, after: bool) -> None:
        original, count = getattr(owner, name), 0

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            due = count == int(numbers[0] if numbers else 1)
            if due and not after:
                strike()
            result = original(*args, **kwargs)
            if due and after:
                strike()
            return result

        setattr(owner, name, wrapper)

    if kind == "step":
        counted(loop, "put_batch", _die, after=False)
    elif kind == "save":
        delay = float(numbers[1])
        start = threading.Timer(delay, _die).start if delay else _die
        counted(checkpoints.Checkpoints, "save", start, after=True)
    elif kind == "row":
        counted(records.Records, "add", _die, after=True)
    elif kind in ("term", "int"):
        ask = partial(os.kill, os.getpid(), getattr(signal, f"SIG{kind.upper()}"))
        counted(loop, "put_batch", ask, after=False)
    elif kind == "measure":
        counted(evaluation, "put_batch", _die, after=False)
    elif kind == "full":
        limit = (int(numbers[1]), resource.RLIM_INFINITY)
        fill = partial(resource.setrlimit, resource.RLIMIT_FSIZE, limit)
        counted(checkpoints.Checkpoints, "save", fill, after=False)
    elif kind == "stale":
        counted(damage.ListedArrays, "restore", _fail_to_read, after=False)
    elif kind == "export":
        counted(loop.Run, "_export", _die, after=False)


if __name__ == "__main__":
    sys.meta_path.insert(0, WithoutTorch())

    from train.__main__ import main

    train.run.plan.build_model = build_tiny  # type: ignore[assignment]
    _die_at(sys.argv[1])
    main(sys.argv[2:])
