"""Run a Flax model and a PyTorch model on the same input, and compare everything they compute."""

from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import nnx

from flaxblocks.convert.fit import AUTO, fit
from flaxblocks.create.source import arrays_of, read_source
from flaxblocks.nn.arguments import check_module
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

    Neither model is changed. Both run in float64, where they may differ by rounding only, and in
    float32 and bfloat16, where the result of each is compared with PyTorch's float64 result.
    Dropout and stochastic depth are disabled in every mode, because their draws cannot agree.

    To return the output of every module, the Flax model is compiled as a special program, which XLA
    optimises differently from the one that users run. `whole` runs the latter: the model under one
    `jax.jit` with XLA's default options, which returns only the output, and the buffers and
    gradients if requested.

    Args:
        flax_model: any module with a key map.
        torch_model: its PyTorch original, with the same weights.
        x: input in Flax's layout, `(N, H, W, C)`.
        layout: the naming that maps one model to the other; "auto" determines it from the keys of
            `torch_model.state_dict()`.
        train: run in training mode, with batch statistics, and compare the updated buffers too.
        grad: also compare the gradient, with respect to every parameter, of the sum of the output
            times a fixed random tensor.
        float32: also run in float32.
        bfloat16: also run in bfloat16: the Flax model with float32 parameters and statistics, as
            `create_model(dtype=jnp.bfloat16)`, PyTorch's as `model.to(torch.bfloat16)`.
        whole: run the program that users run; of the modules only the model itself is compared.
        dialect: an older name of `layout`.

    Returns: a report, whose `ok` is True if all bounds hold. If an output is a list, tuple or dict,
        each tensor in it has a row.

    Raises: ConversionError if the two do not have the same variables; ValueError if either is not a
        model of its framework, if `x` is not `(N, H, W, C)`, or if the layout names a module that
        the PyTorch model lacks.
    """
    x = _checked(flax_model, torch_model, x)
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
            # Where a gradient is 0, float32 and bfloat16 give only noise.
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


def _checked(flax_model: object, torch_model: object, x: object) -> np.ndarray:
    """`x` in float64, if all three are what they must be."""
    check_module("flax_model", flax_model)
    if not (hasattr(torch_model, "state_dict") and hasattr(torch_model, "named_modules")):
        kind, of_flax = type(torch_model).__name__, isinstance(torch_model, nnx.Module)
        raise ValueError(
            f"`torch_model` (a {kind}{' of Flax NNX' * of_flax}) must be a module of PyTorch"
        )
    try:
        array = np.array(x, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"`x` (a {type(x).__name__}) must be an array (N, H, W, C)") from None
    if array.ndim != 4:
        raise ValueError(f"`x` (shape {array.shape}) must be (N, H, W, C)")
    return array
