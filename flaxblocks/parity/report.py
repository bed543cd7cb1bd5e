"""The report of a comparison, and the bounds that it checks."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

__all__ = [
    "BFLOAT16_FACTOR",
    "BOUNDS",
    "FLOAT32_FACTOR",
    "ParityReport",
    "Row",
    "relative_error",
]

OUTPUT = "(output)"
Kind = Literal["module", "buffer", "gradient"]
Narrow = Literal["float32", "bfloat16"]

# Bounds on the relative error in float64, where each operation of either framework rounds by 1e-16.
BOUNDS: Mapping[Kind, float] = {"module": 1e-12, "buffer": 1e-12, "gradient": 1e-10}
# In float32 and bfloat16, our error against the float64 truth may be this multiple of PyTorch's.
FLOAT32_FACTOR = 2.0
BFLOAT16_FACTOR = 2.0
FACTORS: Mapping[Narrow, float] = {"float32": FLOAT32_FACTOR, "bfloat16": BFLOAT16_FACTOR}
# For fewer values than this, the largest error in either framework is a matter of luck.
FEW = 200
# A gradient below this fraction of the model's largest is 0 up to rounding, such as a bias's before
# a batch norm.
NEGLIGIBLE = 1e-12
# PyTorch's float64 error is about its float32 error times 2^-29, the ratio of the two precisions.
# An error within 100 times that is rounding that the model itself amplifies.
AMPLIFIED = 100 * 2.0**-29


def relative_error(ours: np.ndarray, reference: np.ndarray, negligible: float = 0.0) -> float:
    """max|ours - reference| / max|reference| over a whole tensor.

    Args:
        ours: an array of any shape and numeric dtype, including `ml_dtypes.bfloat16`.
        reference: an array of the same shape.
        negligible: magnitude that counts as 0; if neither tensor exceeds it, the error is 0.

    Returns: 0 or more; infinity if the shapes differ, a value is not finite, or only the reference
        is 0.
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


def _exceeds(dtype: Narrow, ours: float, theirs: float) -> bool:
    return not ours <= FACTORS[dtype] * theirs


@dataclass(frozen=True)
class Row:
    """The comparison of one tensor that both frameworks have.

    Attributes:
        kind: a module's output, an updated buffer, or a parameter's gradient.
        native: its path in Flax.
        foreign: its name in PyTorch.
        shape: its shape in Flax's layout.
        max_abs: largest absolute difference in float64.
        relative: `relative_error` in float64.
        ours32: relative error of Flax in float32 against PyTorch in float64; None if not run.
        torch32: relative error of PyTorch in float32 against PyTorch in float64; None if not run.
        ours16: relative error of Flax in bfloat16 against PyTorch in float64; None if not run.
        torch16: relative error of PyTorch in bfloat16 against PyTorch in float64; None if not run.
    """

    kind: Kind
    native: str
    foreign: str
    shape: tuple[int, ...]
    max_abs: float
    relative: float
    ours32: float | None = None
    torch32: float | None = None
    ours16: float | None = None
    torch16: float | None = None

    @property
    def departs(self) -> bool:
        """Whether the float64 error exceeds the bound of its kind."""
        return not self.relative <= BOUNDS[self.kind]

    @property
    def amplified(self) -> bool:
        """Whether the error is comparable to PyTorch's own: this input amplifies rounding, as norms
        over a few values do.
        """
        return self.torch32 is not None and self.relative <= AMPLIFIED * self.torch32

    def narrow_errors(self, dtype: Narrow) -> tuple[float, float] | None:
        """Our error and PyTorch's in float32 or bfloat16; None if it was not run."""
        pair = (self.ours32, self.torch32) if dtype == "float32" else (self.ours16, self.torch16)
        ours, theirs = pair
        return None if ours is None or theirs is None else (ours, theirs)


@dataclass(frozen=True)
class ParityReport:
    """The results of `compare`, in PyTorch's forward order.

    Attributes:
        rows: modules, then buffers, then gradients.
        layout: the naming that mapped one model to the other.
        train: whether the models ran in training mode.
        whole: whether the Flax model ran as users run it, without the outputs of inner modules.
    """

    rows: tuple[Row, ...]
    layout: str
    train: bool = False
    whole: bool = False

    @property
    def first_departure(self) -> Row | None:
        """The first tensor that exceeds its float64 bound, which is where to start looking."""
        return next((row for row in self.rows if row.departs), None)

    @property
    def output(self) -> Row:
        """The row of the model's output; of several, that with the largest float32 error."""
        rows = [row for row in self.rows if row.foreign.startswith(OUTPUT)]
        return max(rows, key=lambda row: row.ours32 or 0.0)

    @property
    def float32_holds(self) -> bool:
        """Whether the output's float32 error is at most `FLOAT32_FACTOR` times PyTorch's own; True
        in training mode, which has no such bound.
        """
        return self._holds("float32")

    @property
    def bfloat16_holds(self) -> bool:
        """Whether the output's bfloat16 error is at most `BFLOAT16_FACTOR` times PyTorch's own;
        True in training mode, which has no such bound.
        """
        return self._holds("bfloat16")

    def _holds(self, dtype: Narrow) -> bool:
        errors = [row.narrow_errors(dtype) for row in self.rows if row.foreign.startswith(OUTPUT)]
        return self.train or not any(pair is not None and _exceeds(dtype, *pair) for pair in errors)

    @property
    def ok(self) -> bool:
        """Whether every bound holds."""
        return self.first_departure is None and self.float32_holds and self.bfloat16_holds

    def worst(self, kind: Kind) -> float:
        """The largest float64 relative error among tensors of a kind; 0 if there are none."""
        return max((row.relative for row in self.rows if row.kind == kind), default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON; an infinite error is the string "inf"."""
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
            "layout": self.layout,
            "train": self.train,
            "whole": self.whole,
            "first_departure": departure.foreign if departure else None,
            "float32_holds": self.float32_holds,
            "bfloat16_holds": self.bfloat16_holds,
            "bounds": dict(BOUNDS),
            "float32_factor": FLOAT32_FACTOR,
            "bfloat16_factor": BFLOAT16_FACTOR,
            "rows": rows,
        }

    def summary(self) -> str:
        """The verdict in a few sentences."""
        departing = {row.kind for row in self.rows if row.departs}
        kinds = {row.kind for row in self.rows}
        lines = [
            f"{self._count(kind)} to {self.worst(kind):.1e} in float64 (bound {bound:.0e})"
            for kind, bound in BOUNDS.items()
            if kind in kinds - departing
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
        for dtype in FACTORS:
            lines += self._narrow_verdict(dtype)
        return "\n".join(lines)

    def _count(self, kind: Kind) -> str:
        """A phrase such as "53 modules agree"."""
        count = sum(row.kind == kind for row in self.rows)
        noun = "output" if kind == "module" and self.whole else kind
        plural = "" if count == 1 else "s"
        of_what = " of the whole program" if noun == "output" else ""
        return f"{count} {noun}{plural}{of_what} {'agrees' if count == 1 else 'agree'}"

    def _narrow_verdict(self, dtype: Narrow) -> list[str]:
        """The sentences about the output in float32 or bfloat16: an output that exceeds its bound,
        else the one with the largest error.
        """
        outputs = [row for row in self.rows if row.foreign.startswith(OUTPUT)]
        errors = [(row.narrow_errors(dtype), row) for row in outputs]
        found = [(_exceeds(dtype, *pair), *pair, row) for pair, row in errors if pair is not None]
        if not found:
            return []
        exceeds, ours, theirs, row = max(found, key=lambda item: item[:2])
        exceeds = exceeds and not self.train
        count = math.prod(row.shape)
        verdict = f", more than {FACTORS[dtype]:g} times as much" if exceeds else ""
        luck = f"the largest error of {count} numbers is a matter of luck: try a larger batch"
        return [
            f"{dtype} output, error against the float64 truth: JAX {ours:.1e}, "
            f"PyTorch {theirs:.1e}{verdict}",
            *([luck] if exceeds and count < FEW else []),
        ]

    def __str__(self) -> str:
        """One line per row, followed by the verdict."""
        width = max([len(row.foreign) for row in self.rows] + [len("PyTorch name")])
        columns = ["max abs", "relative", "JAX f32", "torch f32"]
        narrower = any(row.ours16 is not None for row in self.rows)
        columns += ["JAX bf16", "torch bf16"] if narrower else []
        lines = [f"{'PyTorch name':{width}}  {'shape':16}" + "".join(f"{c:>11}" for c in columns)]
        for row in self.rows:
            shape = "x".join(map(str, row.shape)) or "scalar"
            numbers = (row.max_abs, row.relative, row.ours32, row.torch32, row.ours16, row.torch16)
            cells = "".join(
                f"{'-' if n is None else f'{n:.1e}':>11}" for n in numbers[: len(columns)]
            )
            mark = "  <- departs" if row.departs else ""
            lines.append(f"{row.foreign:{width}}  {shape:16}{cells}{mark}")
        return "\n".join([*lines, self.summary()])
