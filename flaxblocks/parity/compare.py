"""The same input through a Flax and a PyTorch model, and everything both compute side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from flax import nnx

from flaxblocks.convert.convert import as_arrays
from flaxblocks.convert.fit import AUTO, fit
from flaxblocks.convert.keymap import Entry, KeyMap, ModulePair
from flaxblocks.parity.compiling import quick_to_compile
from flaxblocks.parity.record import drop_nothing, record_by_step, record_outputs
from flaxblocks.parity.report import NEGLIGIBLE, OUTPUT, Kind, ParityReport, Row, relative_error

if TYPE_CHECKING:
    from torch import nn

__all__ = ["compare"]

Precision = Literal["float32", "float64"]


@dataclass
class _Run:
    """What one framework computed in one precision, by PyTorch name and in Flax's layout."""

    module: dict[str, np.ndarray] = field(default_factory=dict)
    buffer: dict[str, np.ndarray] = field(default_factory=dict)
    gradient: dict[str, np.ndarray] = field(default_factory=dict)

    def tensors(self, kind: Kind) -> dict[str, np.ndarray]:
        return getattr(self, kind)


def compare(
    flax_model: nnx.Module,
    torch_model: "nn.Module",
    x: np.ndarray,
    dialect: str = AUTO,
    *,
    train: bool = False,
    grad: bool = False,
    float32: bool = True,
) -> ParityReport:
    """Run both models on `x` and compare the output of every module that both have.

    Neither model is changed. Each runs in float64, where only rounding may differ, and in float32,
    where each is held against PyTorch's float64 result. Dropout and stochastic depth are off in
    every mode: their draws cannot agree.

    Args:
        flax_model: any module with a key map.
        torch_model: its PyTorch original, with the same weights if they are to agree.
        x: input in Flax's layout, `(N, H, W, C)`.
        dialect: what joins the two; "auto" finds it by the keys of `torch_model.state_dict()`.
        train: normalise by the batch, and compare the updated buffers too.
        grad: compare the gradient of every parameter, of the sum of the output times a fixed random
            tensor.
        float32: run in float32 too.

    Returns: a report whose `ok` says whether the bounds of `parity.BOUNDS` hold. An output that is
        a list, tuple or dict has a row for each tensor in it.

    Raises: ConversionError if the two do not have the same variables; ValueError if `x` is not `(N,
        H, W, C)`, or if the dialect pairs a module that the PyTorch model has not.
    """
    x = np.asarray(x)
    if x.ndim != 4:
        raise ValueError(f"`x` (shape {x.shape}) must be (N, H, W, C)")
    keys = fit(flax_model, as_arrays(torch_model.state_dict()), dialect).keys
    there = {name for name, _ in torch_model.named_modules()}
    strangers = [pair.foreign for pair in keys.modules if pair.foreign not in there]
    if strangers:
        raise ValueError(
            f"dialect {keys.dialect!r} names modules that the PyTorch model has not: "
            + ", ".join(strangers[:5])
        )
    with jax.enable_x64(True):
        ours64 = _run_flax(flax_model, keys, x, "float64", train, grad)
    torch64 = _run_torch(torch_model, keys, x, "float64", train, grad, ours64.module)
    torch32 = ours32 = None
    if float32:
        torch32 = _run_torch(torch_model, keys, x, "float32", train, grad, ours64.module)
        ours32 = _run_flax(flax_model, keys, x, "float32", train, grad)
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
            # Where a gradient is 0 float32 has but noise.
            is_zero = kind == "gradient" and np.abs(reference).max(initial=0) <= negligible
            narrow = ours32.tensors(kind).get(name, never_ran) if ours32 and not is_zero else None
            theirs = torch32.tensors(kind)[name] if torch32 and not is_zero else None
            rows.append(
                Row(
                    kind,
                    natives.get(name.partition("[")[0], ""),
                    f"{OUTPUT}{name}" if name[:1] in ("", "[") else name,
                    tuple(reference.shape),
                    float(np.abs(ours - reference).max(initial=0)) if same else np.inf,
                    relative_error(ours, reference, negligible),
                    None if narrow is None else relative_error(narrow, reference, negligible),
                    None if theirs is None else relative_error(theirs, reference, negligible),
                )
            )
    return ParityReport(tuple(rows), keys.dialect, train)


def _cotangent(shape: tuple[int, ...]) -> np.ndarray:
    """The fixed tensor that turns an output into a scalar, in Flax's layout."""
    return np.random.default_rng(0).standard_normal(shape)


def _output_pairs(keys: KeyMap) -> dict[str, ModulePair]:
    """Pairs of modules whose outputs are the same thing, by foreign name, of which the last
    holds.
    """
    return {"": ModulePair("", ""), **{pair.foreign: pair for pair in keys.modules}}


def _tensors(name: str, output: Any) -> dict[str, Any]:
    """The tensors of an output: itself, or by `name[i]` those of a list, tuple or dict."""
    items = list(output.values()) if isinstance(output, Mapping) else output
    if not isinstance(items, list | tuple):
        return {name: output}
    found: dict[str, Any] = {}
    for i, item in enumerate(items):
        found |= _tensors(f"{name}[{i}]", item)
    return found


def _run_flax(
    model: nnx.Module, keys: KeyMap, x: np.ndarray, precision: Precision, train: bool, grad: bool
) -> _Run:
    model = nnx.clone(model)
    model.set_attributes(use_running_average=not train, dtype=None, raise_if_not_found=False)
    drop_nothing(model)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def widened(a: jax.Array) -> jax.Array:  # into JAX one by one: large models fit once only
        is_float = jax.numpy.issubdtype(a.dtype, np.floating)
        return jax.device_put(np.asarray(a, precision), may_alias=False) if is_float else a

    def widen(state: nnx.State) -> dict:
        return jax.tree.map(widened, nnx.to_pure_dict(state))

    def forward(params: Mapping, rest: Mapping, x: Any, recorder=record_outputs):
        fresh = nnx.merge(graphdef, params, rest)
        with recorder(fresh) as outputs:
            y = fresh(x)
        return y, (outputs, nnx.to_pure_dict(nnx.state(fresh, nnx.BatchStat)))

    def loss(*inputs):
        y, rest = forward(*inputs)
        parts = _tensors("", y).values()
        return sum((part * _cotangent(part.shape).astype(precision)).sum() for part in parts), rest

    inputs = widen(params), widen(rest), x.astype(precision)
    gradients: Mapping = {}
    if grad:
        compute = jax.jit(jax.grad(loss, has_aux=True), donate_argnums=0)  # to the gradients
        lowered = compute.lower(*inputs)
        options = quick_to_compile(model, grad=True) if precision == "float64" else {}
        gradients, (outputs, stats) = lowered.compile(compiler_options=options)(*inputs)
    elif precision == "float64":
        by_step = partial(record_by_step, options=partial(quick_to_compile, grad=False))
        _, (outputs, stats) = forward(*inputs, by_step)
    else:
        _, (outputs, stats) = jax.jit(forward)(*inputs)
    modules: dict[str, np.ndarray] = {}
    for foreign, pair in _output_pairs(keys).items():
        if pair.native in outputs:
            named = _tensors(foreign, outputs[pair.native])
            modules |= {name: np.asarray(part) for name, part in named.items()}
    return _Run(modules, _by_entry(keys, stats) if train else {}, _by_entry(keys, gradients))


def _by_path(tree: Mapping, prefix: str = "") -> dict[str, object]:
    """A nested dict as dotted path -> leaf."""
    flat = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat |= _by_path(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat


def _by_entry(keys: KeyMap, tree: Mapping) -> dict[str, np.ndarray]:
    values = _by_path(tree)
    return {e.foreign: np.asarray(values[e.native]) for e in keys.entries if e.native in values}


def _run_torch(
    model: "nn.Module",
    keys: KeyMap,
    x: np.ndarray,
    precision: Precision,
    train: bool,
    grad: bool,
    ours: Mapping[str, np.ndarray],
) -> _Run:
    """`ours` are the outputs of the Flax model, which say how PyTorch's are laid."""
    import copy

    import torch

    model = copy.deepcopy(model).to("cpu", getattr(torch, precision)).train(train)
    for module in model.modules():
        if any(word in type(module).__name__ for word in ("Drop", "StochasticDepth")):
            module.eval()
    pairs = _output_pairs(keys)
    run = _Run()

    def record(pair: ModulePair):
        def hook(_module, _inputs, output) -> None:  # cloned: the next layer may work in place
            for name, part in _tensors(pair.foreign, output).items():
                theirs = part.detach().clone().numpy()
                order = _order(theirs, ours.get(name), pair.stored_as)
                run.module[name] = _laid(theirs, order, pair.stored_as)

        return hook

    hooks = [
        m.register_forward_hook(record(pairs[name]))
        for name, m in model.named_modules()
        if name in pairs
    ]
    with torch.set_grad_enabled(grad):
        y = model(torch.from_numpy(x.astype(precision)).permute(0, 3, 1, 2).contiguous())
    for hook in hooks:
        hook.remove()
    entries = keys.by_foreign
    if train:
        run.buffer = {
            name: _native(entries[name], b) for name, b in model.named_buffers() if name in entries
        }
    if grad:
        loss = torch.zeros((), dtype=getattr(torch, precision))
        for name, part in _tensors("", y).items():
            order = _order(part.detach().numpy(), ours.get(name))
            cotangent = _cotangent(tuple(part.shape[axis] for axis in order))
            cotangent = cotangent.transpose(np.argsort(order))
            loss = loss + (part * torch.from_numpy(cotangent.astype(precision))).sum()
        loss.backward()
        for name, p in model.named_parameters():
            gradient = torch.zeros_like(p) if p.grad is None else p.grad
            run.gradient[name] = _native(entries[name], gradient)
            p.grad = None  # large models fit once only
    return run


def _order(
    theirs: np.ndarray, ours: np.ndarray | None, stored_as: str | None = None
) -> tuple[int, ...]:
    """The axes of a PyTorch output in the order of ours.

    Its channels are the second axis, or where its modules permute, as ConvNeXt's do, the last: the
    one that gives our shape. Where both do, height, width and channels are equally many, and the
    nearer to our numbers is taken: they agree to rounding in one order only, and wrong ones in
    none. Where neither does, or there is no output of ours, images have their channels second.
    """
    as_is = tuple(range(theirs.ndim))
    orders = [as_is] if theirs.ndim < 3 else [(0, *as_is[2:], 1), as_is]
    if theirs.ndim == 3:  # tokens
        orders.reverse()
    laid = {order: _laid(theirs, order, stored_as) for order in orders}
    fitting = [order for order in orders if ours is not None and laid[order].shape == ours.shape]
    if ours is None or len(fitting) < 2:
        return (fitting or orders)[0]
    return min(fitting, key=lambda order: relative_error(laid[order], ours))


def _laid(array: np.ndarray, order: tuple[int, ...], stored_as: str | None) -> np.ndarray:
    """A PyTorch output with its axes in that order, and with the axes of our layer where PyTorch
    has another kind.
    """
    array = array.transpose(order)
    if stored_as == "conv1x1" and array.ndim == 4 and array.shape[1:3] == (1, 1):
        return array[:, 0, 0]
    return array[:, None, None] if stored_as == "linear" and array.ndim == 2 else array


def _native(entry: Entry, tensor) -> np.ndarray:
    return entry.to_native(tensor.detach().numpy())
