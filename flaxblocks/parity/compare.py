"""The same input through a Flax and a PyTorch model, and everything both compute side by side."""

from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import nnx

from flaxblocks.convert.fit import AUTO, fit
from flaxblocks.create.source import arrays_of, read_source
from flaxblocks.parity.report import NEGLIGIBLE, OUTPUT, ParityReport, Row, relative_error
from flaxblocks.parity.run import Mode, Precision, Run
from flaxblocks.parity.run_flax import run_flax
from flaxblocks.parity.run_torch import run_torch

if TYPE_CHECKING:
    from torch import nn

__all__ = ["compare"]


def compare(
    flax_model: nnx.Module,
    torch_model: "nn.Module",
    x: np.ndarray,
    layout: str = AUTO,
    *,
    train: bool = False,
    grad: bool = False,
    float32: bool = True,
    bfloat16: bool = False,
    whole: bool = False,
    dialect: str | None = None,
) -> ParityReport:
    """Run both models on `x` and compare the output of every module that both have.

    Neither model is changed. Each runs in float64, where only rounding may differ, and in float32
    and bfloat16, where each is held against PyTorch's float64 result. Dropout and stochastic depth
    are off in every mode: their draws cannot agree.

    To see every module, ours runs as a program that is made for it, which XLA compiles otherwise
    than the one that users run. `whole` runs theirs: the model under one `jax.jit` with XLA's
    default options, which gives the output, and the buffers and gradients that are asked for.

    Args:
        flax_model: any module with a key map.
        torch_model: its PyTorch original, with the same weights if they are to agree.
        x: input in Flax's layout, `(N, H, W, C)`.
        layout: what joins the two; "auto" finds it by the keys of `torch_model.state_dict()`.
        train: normalise by the batch, and compare the updated buffers too.
        grad: compare the gradient of every parameter, of the sum of the output times a fixed random
            tensor.
        float32: run in float32 too.
        bfloat16: run in bfloat16 too: ours with float32 parameters and statistics, as
            `create_model(dtype=jnp.bfloat16)`, PyTorch's as `model.to(torch.bfloat16)`.
        whole: run the program that users run, and compare no module but the model itself.
        dialect: an older name of `layout`.

    Returns: a report whose `ok` says whether the bounds of `parity.BOUNDS` hold. An output that is
        a list, tuple or dict has a row for each tensor in it.

    Raises: ConversionError if the two do not have the same variables; ValueError if `x` is not `(N,
        H, W, C)`, or if the layout pairs a module that the PyTorch model lacks.
    """
    x = np.array(x, np.float64)
    if x.ndim != 4:
        raise ValueError(f"`x` (shape {x.shape}) must be (N, H, W, C)")
    contents = read_source(torch_model.state_dict())
    state = arrays_of(contents.state_dicts[0], contents)
    keys = fit(flax_model, state, dialect or layout).keys
    there = {name for name, _ in torch_model.named_modules()}
    strangers = [pair.foreign for pair in keys.modules if pair.foreign not in there]
    if strangers:
        raise ValueError(
            f"layout {keys.layout!r} names modules that the PyTorch model lacks: "
            + ", ".join(strangers[:5])
        )
    mode = Mode(train, grad, whole)
    with jax.enable_x64(True):
        ours64 = run_flax(flax_model, keys, x, "float64", mode)
    torch64 = run_torch(torch_model, keys, x, "float64", mode, ours64.module)
    narrow: list[Run | None] = []  # ours and PyTorch's, in float32 and in bfloat16
    wanted: dict[Precision, bool] = {"float32": float32, "bfloat16": bfloat16}
    for precision, is_wanted in wanted.items():
        if is_wanted:
            narrow.append(run_flax(flax_model, keys, x, precision, mode))
            narrow.append(run_torch(torch_model, keys, x, precision, mode, ours64.module))
        else:
            narrow += [None, None]
    natives = {pair.foreign: pair.native for pair in keys.modules} | {
        e.foreign: e.native for e in keys.entries
    }
    rows = []
    never_ran = np.full((), np.nan)  # a module that only PyTorch calls
    for kind in ("module", "buffer", "gradient"):
        truth = torch64.tensors(kind)
        largest = max((float(np.abs(t).max(initial=0)) for t in truth.values()), default=0.0)
        negligible = NEGLIGIBLE * largest if kind == "gradient" else 0.0
        for name, reference in truth.items():
            ours = ours64.tensors(kind).get(name, never_ran)
            same = ours.shape == reference.shape
            # Where a gradient is 0 a narrow type has but noise.
            is_zero = kind == "gradient" and np.abs(reference).max(initial=0) <= negligible
            errors = [
                None
                if run is None or is_zero
                else relative_error(run.tensors(kind).get(name, never_ran), reference, negligible)
                for run in narrow
            ]
            rows.append(
                Row(
                    kind,
                    natives.get(name.partition("[")[0], ""),
                    f"{OUTPUT}{name}" if name[:1] in ("", "[") else name,
                    tuple(reference.shape),
                    float(np.abs(ours - reference).max(initial=0)) if same else np.inf,
                    relative_error(ours, reference, negligible),
                    *errors,
                )
            )
    return ParityReport(tuple(rows), keys.layout, train, whole)
