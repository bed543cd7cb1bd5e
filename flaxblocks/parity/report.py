"""What a comparison found, and which bounds it must keep."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

__all__ = ["BOUNDS", "FLOAT32_FACTOR", "ParityReport", "Row", "relative_error"]

OUTPUT = "(output)"
Kind = Literal["module", "buffer", "gradient"]

# The largest relative error in float64. Both frameworks then round some 1e-16 at each operation.
BOUNDS: Mapping[Kind, float] = {"module": 1e-12, "buffer": 1e-12, "gradient": 1e-10}
# In float32 our error against the float64 truth may be this many times PyTorch's own.
FLOAT32_FACTOR = 2.0
# The largest error of fewer numbers than these is a matter of luck, in both frameworks.
FEW = 200
# A gradient below this fraction of the model's largest is 0 up to rounding, such as a bias's before
# a batch norm.
NEGLIGIBLE = 1e-12
# PyTorch's float32 error, brought down to float64's rounding, is what its float64 error must be
# about; a departure within this many times that is rounding that the model itself amplifies.
AMPLIFIED = 100 * 2.0**-29


def relative_error(ours: np.ndarray, reference: np.ndarray, negligible: float = 0.0) -> float:
    """max|ours - reference| / max|reference| over a whole tensor.

    Args:
        ours: any shape.
        reference: the same shape.
        negligible: a magnitude that counts as 0; where both tensors stay below it they agree.

    Returns: 0 or more; infinity where shapes differ, something is not finite, or the reference
        alone is 0.
    """
    if ours.shape != reference.shape or not (
        np.isfinite(ours).all() and np.isfinite(reference).all()
    ):
        return np.inf
    if not reference.size:
        return 0.0
    ours, reference = ours.astype(np.float64), reference.astype(np.float64)
    scale = np.abs(reference).max()
    if max(scale, np.abs(ours).max()) <= negligible:
        return 0.0
    difference = np.abs(ours - reference).max()
    if scale == 0:
        return np.inf if difference else 0.0
    return float(difference / scale)


@dataclass(frozen=True)
class Row:
    """One tensor that both frameworks have.

    Attributes:
        kind: a module's output, an updated buffer, or a parameter's gradient.
        native: its Flax path.
        foreign: its PyTorch name.
        shape: in Flax's layout.
        max_abs: largest difference in float64.
        relative: `relative_error` in float64.
        ours32: relative error of Flax in float32 against PyTorch in float64; None if not run.
        torch32: relative error of PyTorch in float32 against PyTorch in float64; None if not run.
    """

    kind: Kind
    native: str
    foreign: str
    shape: tuple[int, ...]
    max_abs: float
    relative: float
    ours32: float | None = None
    torch32: float | None = None

    @property
    def departs(self) -> bool:
        """The float64 bound of its kind is broken."""
        return not self.relative <= BOUNDS[self.kind]

    @property
    def amplified(self) -> bool:
        """The error is of the size of PyTorch's own: this input amplifies rounding, as norms over a
        handful of values do.
        """
        return self.torch32 is not None and self.relative <= AMPLIFIED * self.torch32


@dataclass(frozen=True)
class ParityReport:
    """Everything that `compare` compared, in PyTorch's forward order.

    Attributes:
        rows: modules, then buffers, then gradients.
        dialect: the layout that joined the two models.
        train: the models ran in training mode.
    """

    rows: tuple[Row, ...]
    dialect: str
    train: bool = False

    @property
    def first_departure(self) -> Row | None:
        """The first tensor whose float64 bound is broken: where to start looking."""
        return next((row for row in self.rows if row.departs), None)

    @property
    def output(self) -> Row:
        """The row of the model's own output; of several, the one with the largest float32 error."""
        rows = [row for row in self.rows if row.foreign.startswith(OUTPUT)]
        return max(rows, key=lambda row: row.ours32 or 0.0)

    @property
    def float32_holds(self) -> bool:
        """The output's float32 error is at most `FLOAT32_FACTOR` times PyTorch's own (inference
        only).
        """
        return self.train or all(
            row.ours32 is None or row.torch32 is None or row.ours32 <= FLOAT32_FACTOR * row.torch32
            for row in self.rows
            if row.foreign.startswith(OUTPUT)
        )

    @property
    def ok(self) -> bool:
        """Every bound is kept."""
        return self.first_departure is None and self.float32_holds

    def worst(self, kind: Kind) -> float:
        """The largest float64 relative error of a kind; 0 if there is none of it."""
        return max((row.relative for row in self.rows if row.kind == kind), default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, for JSON; an infinite error is the string "inf"."""
        rows = [
            {
                key: str(value) if isinstance(value, float) and not np.isfinite(value) else value
                for key, value in asdict(row).items()
            }
            for row in self.rows
        ]
        departure = self.first_departure
        return {
            "ok": self.ok,
            "dialect": self.dialect,
            "train": self.train,
            "first_departure": departure.foreign if departure else None,
            "float32_holds": self.float32_holds,
            "bounds": dict(BOUNDS),
            "float32_factor": FLOAT32_FACTOR,
            "rows": rows,
        }

    def summary(self) -> str:
        """The verdict in a few sentences."""
        counts = {kind: sum(row.kind == kind for row in self.rows) for kind in BOUNDS}
        lines = [
            f"{counts[kind]} {kind}s agree to {self.worst(kind):.1e} in float64 "
            f"(bound {BOUNDS[kind]:.0e})"
            for kind in BOUNDS
            if counts[kind] and not any(row.departs for row in self.rows if row.kind == kind)
        ]
        if self.first_departure is not None:
            row = self.first_departure
            lines.append(
                f"the first {row.kind} to depart is {row.foreign} ({row.native}): relative error "
                f"{row.relative:.1e} in float64, bound {BOUNDS[row.kind]:.0e}"
            )
            if row.amplified:
                lines.append(
                    f"PyTorch's own float32 error there is {row.torch32:.1e}: this input amplifies "
                    "rounding, as batch norms over few values do; try a larger image or batch"
                )
        if self.output.ours32 is not None and self.output.torch32 is not None:
            verdict = "" if self.float32_holds else f", more than {FLOAT32_FACTOR:g} times as much"
            lines.append(
                f"float32 output, error against the float64 truth: JAX {self.output.ours32:.1e}, "
                f"PyTorch {self.output.torch32:.1e}{verdict}"
            )
            count = math.prod(self.output.shape)
            if not self.float32_holds and count < FEW:
                lines.append(
                    f"the largest error of {count} numbers is a matter of luck: try a larger batch"
                )
        return "\n".join(lines)

    def __str__(self) -> str:
        """A line for each row, then the verdict."""
        width = max([len(row.foreign) for row in self.rows] + [len("PyTorch name")])
        columns = ("max abs", "relative", "JAX f32", "torch f32")
        lines = [f"{'PyTorch name':{width}}  {'shape':16}" + "".join(f"{c:>10}" for c in columns)]
        for row in self.rows:
            shape = "x".join(map(str, row.shape)) or "scalar"
            numbers = (row.max_abs, row.relative, row.ours32, row.torch32)
            cells = "".join(f"{'-' if n is None else f'{n:.1e}':>10}" for n in numbers)
            mark = "  <- departs" if row.departs else ""
            lines.append(f"{row.foreign:{width}}  {shape:16}{cells}{mark}")
        return "\n".join([*lines, self.summary()])
