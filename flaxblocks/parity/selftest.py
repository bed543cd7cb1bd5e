"""`flaxblocks selftest`: compare this device and this jaxlib with PyTorch's stored results.

Results proven on one machine may be wrong on another: its compiler has a fault, or it rounds
products to TF32. Models therefore run here as users run them, with weights and images computed by a
formula (`flaxblocks.parity.hashed`), and PyTorch's float64 results for these come with the package.
PyTorch is not needed.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxblocks.convert.keymap import KeyMap, key_map
from flaxblocks.create.load import load_torch
from flaxblocks.inference import compile_inference
from flaxblocks.parity.answers import Answer, answers, departures, digest, digests
from flaxblocks.parity.cases import Case, cases_of
from flaxblocks.parity.hashed import hashed, hashed_state
from flaxblocks.parity.report import BOUNDS, FLOAT32_FACTOR
from flaxblocks.parity.selftest_report import Check, SelfTestReport

__all__ = ["Program", "programs_of", "run_program", "selftest"]

Way = Literal["jit", "eager", "compiled", "features"]
Precision = Literal["float64", "float32", "float32 full", "bfloat16"]
Tensors = dict[str, np.ndarray]

BOUND = {
    "output": BOUNDS["module"],
    "features": BOUNDS["module"],
    "buffers": BOUNDS["buffer"],
    "gradients": BOUNDS["gradient"],
}
# Multiple of PyTorch's own error that is allowed in training mode: XLA's CPU backend adds the
# values of a batch one after another, which gives up to four times the rounding error. In float64
# the bounds above apply.
TRAINING_FACTOR = 10.0
THOROUGH = ("mobilenetv2_035",)  # runs in every way and precision by default
# Backends whose default float32 products are less precise: the name of these, and the ratio of
# bfloat16's rounding error to theirs (TF32 has three bits more).
NARROW = {"gpu": ("TF32", 8), "tpu": ("bfloat16 products", 1)}
MOST_THREADS = 4  # threads that trace and compile in parallel


@dataclass(frozen=True)
class Program:
    """One way of running one case.

    Attributes:
        case: the network and its images.
        way: "jit", the model under one `jax.jit`; "eager", operation by operation; "compiled", by
            `compile_inference`; or "features", `forward_features` under `jax.jit`. In training mode
            the program returns the output, updated buffers and gradients.
        precision: "float32" is JAX's default, which is TF32 on some GPUs; "float32 full" sets full
            precision.
    """

    case: Case
    way: Way
    precision: Precision


def selftest(
    pattern: str = "*",
    *,
    everything: bool = False,
) -> SelfTestReport:
    """Run models and blocks on the default device, and compare them with PyTorch's stored results.

    Args:
        pattern: `fnmatch` pattern for the names of models and of classes in `flaxblocks.blocks`.
        everything: run every case in every way, rather than a selection that takes a minute on two
            cores.

    Returns: a report, whose `ok` is True if every bound holds.

    Raises: ValueError if no name matches.
    """
    platform = jax.default_backend()
    programs = [
        program
        for case in cases_of(pattern, everything=everything)
        for program in programs_of(case, platform, everything=everything)
    ]
    checks: list[Check] = []
    started = time.monotonic()
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as pool:
        for found in _counted(pool.map(run_program, programs), len(programs)):
            checks += found
    return SelfTestReport(tuple(checks), time.monotonic() - started)


def _counted(found: Iterable[list[Check]], total: int) -> Iterator[list[Check]]:
    """Pass on the checks found, with a progress bar if stderr is a terminal."""
    from tqdm import tqdm

    return iter(tqdm(found, total=total, unit=" programs", leave=False, disable=None))


def programs_of(case: Case, platform: str, *, everything: bool) -> Iterator[Program]:
    """The programs that run a case on a platform."""
    narrow: list[Precision] = ["float32"] if platform == "cpu" else ["float32", "float32 full"]
    exact: list[Precision] = [] if platform == "tpu" else ["float64"]  # a TPU has no float64
    everywhere: list[Precision] = [*exact, *narrow, "bfloat16"]
    if case.train:
        wanted: list[Precision] = [*exact, *narrow] if everything else exact or narrow
        for precision in wanted:
            yield Program(case, "jit", precision)
        if everything and case.is_block:
            yield Program(case, "eager", narrow[-1])
        return
    if case.is_block:
        for precision in everywhere[: None if everything else -1]:
            yield Program(case, "jit", precision)
        return
    thorough = everything or case.name in THOROUGH
    for precision in everywhere if thorough else exact:
        yield Program(case, "jit", precision)
    for precision in everywhere if everything else narrow:
        yield Program(case, "compiled", precision)
    if thorough:
        yield Program(case, "eager", narrow[-1])
        if "features" in answers()[case.key].truth:
            yield Program(case, "features", narrow[-1])


def run_program(program: Program) -> list[Check]:
    """Run one program and check its results. An error in JAX becomes a check that does not hold."""
    answer = answers()[program.case.key]
    wide = program.precision == "float64"
    full = wide or program.precision == "float32 full"
    with ExitStack() as stack:
        stack.enter_context(jax.enable_x64(wide))
        if full:
            stack.enter_context(jax.default_matmul_precision("highest"))
        started = time.monotonic()
        try:
            found = _outcome(program, answer)
        except Exception as error:  # anything that the compiler or the device raises is a finding
            text = " ".join(f"{type(error).__name__}: {error}".split())
            return [_check(program, "output", np.inf, 0.0, failure=text[:200])]
        seconds = time.monotonic() - started
    checks = [
        _judged(program, answer, what, ours)
        for what, ours in found.items()
        # The derivative of ReLU is discontinuous. In a deep network, float32 rounding decides on
        # which side of 0 a value lies, in PyTorch as here.
        if wide or what != "gradients" or program.case.is_block
    ]
    return [replace(checks[0], seconds=seconds), *checks[1:]]


def _outcome(program: Program, answer: Answer) -> dict[str, np.ndarray]:
    """The digests of what this device computed, by quantity."""
    case, precision = program.case, program.precision
    model, keys = _filled(case, answer)
    dtype = jnp.dtype(precision.partition(" ")[0])
    images = hashed(f"{case.key}/images", (case.batch, *case.size, case.in_channels))
    x = jnp.asarray(images, dtype)
    if precision == "float64":
        nnx.update(model, jax.tree.map(_widened, nnx.state(model)))
    elif precision == "bfloat16":
        model.set_attributes(dtype=jnp.bfloat16, raise_if_not_found=False)
    if case.train:
        return _training(program, model, keys, x)
    model.eval()
    what = "features" if program.way == "features" else "output"
    return {what: digest(what, _forward(program.way, model)(x))}


def _filled(case: Case, answer: Answer) -> tuple[Any, KeyMap]:
    """The network with its hashed weights, and their key map to PyTorch."""
    model = case.build()
    keys = key_map(model, case.layout)
    shapes = {entry.foreign: entry.foreign_shape for entry in keys.entries}
    load_torch(model, hashed_state(shapes, case.network, answer.norms), case.layout)
    return model, keys


def _widened(a: jax.Array) -> jax.Array:
    return jnp.asarray(np.asarray(a), jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a


def _forward(way: Way, model: Any) -> Callable[[jax.Array], jax.Array]:
    if way == "eager":
        return model
    if way == "compiled":
        return compile_inference(model)
    graphdef, state = nnx.split(model)

    def forward(state: nnx.State, x: jax.Array) -> jax.Array:
        merged = nnx.merge(graphdef, state)
        return merged.forward_features(x) if way == "features" else merged(x)

    return lambda x: jax.jit(forward)(state, x)


def _training(program: Program, model: Any, keys: KeyMap, x: jax.Array) -> dict[str, np.ndarray]:
    model.train()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    key = f"{program.case.key}/cotangent"

    def loss(params: nnx.State, rest: nnx.State, x: jax.Array):
        fresh = nnx.merge(graphdef, params, rest, copy=True)
        y = fresh(x)
        stats = nnx.state(fresh, nnx.BatchStat)
        return (y * jnp.asarray(hashed(key, y.shape), y.dtype)).sum(), (y, stats)

    gradient = jax.grad(loss, has_aux=True)
    run = gradient if program.way == "eager" else jax.jit(gradient)
    gradients, (y, stats) = run(params, rest, x)
    found = {"output": digest("output", y)}
    for what, state in (("buffers", stats), ("gradients", gradients)):
        values = {".".join(map(str, path)): v[...] for path, v in nnx.to_flat_state(state)}
        named = {e.foreign: values[e.native] for e in keys.entries if e.native in values}
        if named:
            found[what] = digests(named)
    return found


def _judged(program: Program, answer: Answer, what: str, ours: np.ndarray) -> Check:
    """Compare a quantity with the stored answer, and its error with the bound."""
    errors = departures(ours, answer.truth[what])
    precision = program.precision
    if precision == "float64":
        return _check(program, what, errors.max(), BOUND[what])
    error = float(errors.max() if what in ("output", "features") else np.median(errors))
    factor = TRAINING_FACTOR if program.case.train else FLOAT32_FACTOR
    own = answer.bfloat16 if precision == "bfloat16" else answer.float32
    bound = factor * own[what]
    if precision == "float32" and error > bound and jax.default_backend() in NARROW:
        seen, part = NARROW[jax.default_backend()]
        narrow = factor * answer.bfloat16[what] / part
        if error <= narrow:
            return _check(program, what, error, narrow, seen=seen)
    return _check(program, what, error, bound)


def _check(program: Program, what: str, error: float, bound: float, **known: Any) -> Check:
    case = program.case
    return Check(
        network=case.network,
        images=f"{case.batch}x{case.size[0]}x{case.size[1]}",
        mode="train" if case.train else "eval",
        way=program.way,
        precision=program.precision,
        what=what,
        error=float(error),
        bound=float(bound),
        **known,
    )
