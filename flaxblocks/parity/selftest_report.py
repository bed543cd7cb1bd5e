"""The report of the self-test, with the device and the versions."""

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import groupby
from typing import Any

import jax
import numpy as np

__all__ = ["Check", "SelfTestReport"]

COLUMNS = ("network", "images", "mode", "way", "precision", "output", "buffers", "gradients")


@dataclass(frozen=True)
class Check:
    """The check of one quantity that a program computes.

    Attributes:
        network: the model, or the block with its arguments.
        images: number and size of the images, `NxHxW`.
        mode: "eval" or "train".
        way: how the program runs: "jit", "eager", "compiled" or "features".
        precision: "float64", "float32" (JAX's default), "float32 full" or "bfloat16".
        what: the quantity: "output", "features", "buffers" or "gradients".
        error: error relative to PyTorch in float64; infinite if a value is not finite.
        bound: bound on the error.
        seen: the less precise products that the error indicates, "TF32" or "bfloat16 products".
        failure: the error that JAX raised, if any.
        seconds: duration of the program including its compilation, for its first quantity only.
    """

    network: str
    images: str
    mode: str
    way: str
    precision: str
    what: str
    error: float
    bound: float
    seen: str = ""
    failure: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the bound holds."""
        return not self.failure and self.error <= self.bound

    @property
    def program(self) -> tuple[str, ...]:
        """The fields that identify the program."""
        return self.network, self.images, self.mode, self.way, self.precision


@dataclass(frozen=True)
class SelfTestReport:
    """Every check, in the order in which they ran.

    Attributes:
        checks: one for each quantity of each program.
        seconds: total duration.
    """

    checks: tuple[Check, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every bound holds."""
        return all(check.ok for check in self.checks)

    @property
    def broken(self) -> list[Check]:
        """The checks whose bound does not hold."""
        return [check for check in self.checks if not check.ok]

    def heading(self) -> str:
        """The device, the versions and the current precision of matrix products."""
        device = jax.devices()[0]
        names = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "flax", "numpy"))
        precision = getattr(jax.config, "jax_default_matmul_precision", None) or "default"
        return (
            f"{device.device_kind} ({device.platform}), Python {platform.python_version()}, "
            f"{names}, matrix products in {precision} precision"
        )

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON; infinite values are null."""
        checks = [
            {
                key: None if isinstance(value, float) and not np.isfinite(value) else value
                for key, value in (asdict(check) | {"ok": check.ok}).items()
            }
            for check in self.checks
        ]
        heading = self.heading()
        return {"ok": self.ok, "on": heading, "seconds": self.seconds, "checks": checks}

    def __str__(self) -> str:
        """The heading, one line per program, and the verdict."""
        lines: list[tuple[str, ...]] = [COLUMNS]
        for program, group in groupby(self.checks, key=lambda check: check.program):
            by_what = {check.what.replace("features", "output"): check for check in group}
            cells = [_cell(by_what.get(what)) for what in COLUMNS[-3:]]
            lines.append((*program, *cells))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join([self.heading(), *table, self.verdict()])

    def verdict(self) -> str:
        """The result in one or a few sentences."""
        seen = {check.seen for check in self.checks if check.seen}
        narrow = [
            f"float32 uses {name} here; `jax.default_matmul_precision('highest')` gives full "
            "precision"
            for name in sorted(seen)
        ]
        failures = [f"{' '.join(c.program)}: {c.failure}" for c in self.checks if c.failure]
        count = len({check.program for check in self.checks})
        if self.ok:
            result = f"every bound holds: {count} programs in {self.seconds:.0f} s"
        else:
            result = f"{len(self.broken)} of {len(self.checks)} bounds are exceeded"
        return "\n".join([*narrow, *failures, result])


def _cell(check: Check | None) -> str:
    """The error of a check as text, such as `3.1e-15`, with its bound if that does not hold."""
    if check is None:
        return "-"
    if check.failure:
        return "failed"
    if not check.ok:
        return f"{check.error:.1e} > {check.bound:.1e} BROKEN"
    return f"{check.error:.1e}" + (f" {check.seen}" if check.seen else "")
