"""Releases of jaxlib that compute wrong numbers, as data. Importing flaxblocks warns of them.

Whether a release is concerned is told from its version, the platforms that JAX is set to and the
plugins that are installed: no device is touched before the user does, and JAX is imported only if
the version is in question.
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
    """One fault of a range of releases.

    Attributes:
        first: the first release that has it.
        last: the last one.
        backend: where it shows.
        wrong: what is computed wrongly, as a sentence about "wrong numbers" goes on.
        source: the public report.
        remedy: what to install or to set, in one sentence.
        flag: what in XLA_FLAGS cures it; empty if nothing does.
        reproduction: the function in `reproductions.py` that says whether it shows.
    """

    first: str
    last: str
    backend: Backend
    wrong: str
    source: str
    remedy: str
    flag: str = ""
    reproduction: str


NO_YNNPACK = "--xla_cpu_experimental_ynn_fusion_type="  # of the fusions that go to YNNPACK: none
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
        wrong="on the CPU, sums over a broadcast array, in each call by another amount",
        source="tensorflow#126812",
        remedy=WITHOUT_YNNPACK,
        flag=NO_YNNPACK,
        reproduction="sum_of_broadcast",
    ),
)


def warn_of_bad_jaxlib() -> None:
    """Warn, in one sentence with the remedy, if the installed jaxlib computes wrong numbers and no
    flag cures it. Called once, when flaxblocks is imported.
    """
    release = jaxlib.version.__version__
    rows = [row for row in bad_rows(release) if not is_cured(row)]
    if rows:
        # Three up: past this function and the package's __init__, to who imports it.
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
    """Whether JAX is set to `backend`, or nothing is set and what it needs is installed."""
    chosen = jax_setting("jax_platforms")
    if chosen:
        names = {backend, "gpu"} if backend in ("cuda", "rocm") else {backend}
        return not names.isdisjoint(chosen.split(","))
    return any(map(_is_installed, PLUGINS[backend]))


def is_cured(row: BadJaxlib) -> bool:
    """Whether the last that XLA_FLAGS says of the row's flag is the flag itself."""
    name, flags = row.flag.partition("=")[0], os.environ.get("XLA_FLAGS", "")
    words = [word for word in flags.split() if word.partition("=")[0] == name]
    return bool(words) and words[-1] == row.flag


def jax_setting(name: str) -> Any:
    """What JAX is set to, by the environment or `jax.config.update`; it starts nothing."""
    import jax

    return getattr(jax.config, name)


def release_numbers(release: str) -> tuple[int, ...]:
    """`(0, 10, 2)` of `"0.10.2"` and of `"0.10.2.dev20260601"`."""
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
