"""Releases of jaxlib that compute wrong numbers, as data. Importing flaxblocks warns of them.

A release is recognised by its version, the platforms that JAX is set to and the installed plugins.
This initialises no device, and imports JAX only if the version is in one of the ranges.
"""

import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import jaxlib.version

__all__ = [
    "BAD_JAXLIBS",
    "BadJaxlib",
    "KnownBadJaxlib",
    "bad_rows",
    "is_cured",
    "jax_setting",
    "may_run_on",
    "release_numbers",
    "warn_of_bad_jaxlib",
]

Backend = Literal["cpu", "cuda", "rocm", "tpu"]

PLUGINS: dict[Backend, tuple[str, ...]] = {
    "cpu": ("jaxlib",),
    "cuda": ("jax-cuda12-plugin", "jax-cuda13-plugin"),
    "rocm": ("jax-rocm7-plugin", "jax-rocm60-plugin"),
    "tpu": ("libtpu",),
}


class KnownBadJaxlib(UserWarning):
    """The installed jaxlib is known to compute wrong numbers."""


@dataclass(frozen=True, kw_only=True)
class BadJaxlib:
    """A fault of a range of releases.

    Attributes:
        first: first release that has the fault.
        last: last release that has it.
        backend: backend on which it occurs.
        wrong: what is computed wrongly, as a phrase that continues a sentence on "wrong numbers".
        source: the public report.
        remedy: what to install or set, in one sentence.
        flag: flag in XLA_FLAGS that cures it; empty if there is none.
        reproduction: name of the function in `reproductions.py` that tests whether it occurs.
    """

    first: str
    last: str
    backend: Backend
    wrong: str
    source: str
    remedy: str
    flag: str = ""
    reproduction: str


NO_YNNPACK = "--xla_cpu_experimental_ynn_fusion_type="  # pass no fusions to YNNPACK
WITHOUT_YNNPACK = (
    "pip install 'jax>=0.12', or 'jax==0.10.1' for Python 3.11; "
    f"or add {NO_YNNPACK} to XLA_FLAGS before Python starts"
)

BAD_JAXLIBS = (
    BadJaxlib(
        first="0.10.2",
        last="0.10.2",
        backend="cpu",
        wrong="on the CPU, compiled sums of squares of many matrix-vector products",
        source="jax#39103",
        remedy=WITHOUT_YNNPACK,
        flag=NO_YNNPACK,
        reproduction="squares_of_products",
    ),
    BadJaxlib(
        first="0.10.2",
        last="0.11.2",
        backend="cpu",
        wrong="on the CPU, sums over a broadcast array, by a different amount in each call",
        source="tensorflow#126812",
        remedy=WITHOUT_YNNPACK,
        flag=NO_YNNPACK,
        reproduction="sum_of_broadcast",
    ),
)


def warn_of_bad_jaxlib() -> None:
    """Warn, in one sentence with the remedy, if the installed jaxlib computes wrong numbers and
    XLA_FLAGS does not cure it. Called once, when flaxblocks is imported.
    """
    release = jaxlib.version.__version__
    rows = [row for row in bad_rows(release) if not is_cured(row)]
    if rows:
        # Three levels up, past this function and the package's __init__: the importing module.
        warnings.warn(_sentence(release, rows), KnownBadJaxlib, stacklevel=3)


def bad_rows(release: str) -> list[BadJaxlib]:
    """The faults of a release of jaxlib on the backends that JAX may run on here."""
    return [
        row
        for row in BAD_JAXLIBS
        if release_numbers(row.first) <= release_numbers(release) <= release_numbers(row.last)
        and may_run_on(row.backend)
    ]


def may_run_on(backend: Backend) -> bool:
    """Whether JAX is set to `backend`, or to none while the plugin of `backend` is installed."""
    chosen = jax_setting("jax_platforms")
    if chosen:
        names = {backend, "gpu"} if backend in ("cuda", "rocm") else {backend}
        return not names.isdisjoint(chosen.split(","))
    return any(map(_is_installed, PLUGINS[backend]))


def is_cured(row: BadJaxlib) -> bool:
    """Whether XLA_FLAGS sets the row's flag, and no later word in it overrides it."""
    name, flags = row.flag.partition("=")[0], os.environ.get("XLA_FLAGS", "")
    words = [word for word in flags.split() if word.partition("=")[0] == name]
    return bool(words) and words[-1] == row.flag


def jax_setting(name: str) -> Any:
    """A setting of JAX, from the environment or `jax.config.update`; starts no backend."""
    import jax

    return getattr(jax.config, name)


def release_numbers(release: str) -> tuple[int, ...]:
    """The numbers of a release: `(0, 10, 2)` for `"0.10.2"` and for `"0.10.2.dev20260601"`."""
    found = re.match(r"\d+(\.\d+)*", release)
    return tuple(map(int, found[0].split("."))) if found else ()


def _sentence(release: str, rows: Iterable[BadJaxlib]) -> str:
    wrong = "; ".join(f"{row.wrong}, {row.source}" for row in rows)
    remedies = "; ".join(dict.fromkeys(row.remedy for row in rows))
    return f"jaxlib {release} computes wrong numbers ({wrong}): {remedies}"


def _is_installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
