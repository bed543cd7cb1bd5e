"""The devices, numerical reliability, precision and settings of JAX."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jaxlib.version

from flaxblocks.inspect.installation.finding import Finding
from flaxblocks.inspect.installation.known_bad import (
    PLUGINS,
    BadJaxlib,
    bad_rows,
    is_cured,
    jax_setting,
)
from flaxblocks.inspect.installation.packages import version_of
from flaxblocks.inspect.installation.reproductions import shows_here

__all__ = ["devices", "known_bad", "precision", "xla_flags"]

DRIVER = Path("/proc/driver/nvidia/version")  # exists if NVIDIA's driver is loaded
FULL = ("highest", "float32")
FAST = {"gpu": "TF32 (10 bits)", "tpu": "bfloat16 (7 bits)"}  # the default of these devices


def devices() -> Iterator[Finding]:
    """The devices by kind, and an NVIDIA GPU that JAX does not use."""
    try:
        found = jax.devices()
    except RuntimeError as error:
        chosen = jax_setting("jax_platforms")
        remedy = f"unset JAX_PLATFORMS={chosen}, which requests it" if chosen else None
        yield Finding("devices", str(error).partition("\n")[0], "bad", remedy)
        return
    for kind, count in Counter(map(_describe, found)).items():
        yield Finding("devices", f"{count} x {kind}" if count > 1 else kind)
    if DRIVER.exists() and jax.default_backend() == "cpu" and not jax_setting("jax_platforms"):
        plugins = [plugin for plugin in PLUGINS["cuda"] if version_of(plugin)]
        remedy = "JAX_PLATFORMS=cuda makes JAX say why" if plugins else "pip install 'jax[cuda13]'"
        yield Finding("devices", "there is an NVIDIA GPU, but JAX does not use it", "note", remedy)


def known_bad() -> Iterator[Finding]:
    """Whether jaxlib is a release with a known fault, and whether the fault occurs here."""
    release = jaxlib.version.__version__
    rows = bad_rows(release)
    if not rows:
        yield Finding("known-bad jaxlib", f"{release} has no known faults")
    yield from (_judge(row) for row in rows)


def precision() -> Iterator[Finding]:
    """The precision of float32 products, and whether float64 is on."""
    chosen, backend = jax_setting("jax_default_matmul_precision"), jax.default_backend()
    wide = f"float64 is {'on' if jax_setting('jax_enable_x64') else 'off'}"
    if chosen in FULL or (chosen is None and backend not in FAST):
        yield Finding("precision", f"float32 products have full precision; {wide}")
        return
    fast = f"{FAST[backend]} by default" if chosen is None else f"{chosen!r}, as JAX is set"
    remedy = "JAX_DEFAULT_MATMUL_PRECISION=highest for full precision"
    yield Finding("precision", f"float32 products are {fast}; {wide}", "note", remedy)


def xla_flags() -> Iterator[Finding]:
    """The value of XLA_FLAGS."""
    yield Finding("XLA_FLAGS", os.environ.get("XLA_FLAGS") or "none")


def _describe(device: Any) -> str:
    if device.platform == "cpu":
        return f"CPU with {os.cpu_count()} cores"
    limit = (device.memory_stats() or {}).get("bytes_limit")
    memory = f", {limit / 1e9:.0f} GB for JAX" if limit else ""
    return f"{device.device_kind} ({device.platform}){memory}"


def _judge(row: BadJaxlib) -> Finding:
    what = f"{row.wrong} ({row.source})"
    if shows_here(row):
        return Finding("known-bad jaxlib", f"wrong here: {what}", "bad", row.remedy)
    if is_cured(row):
        return Finding("known-bad jaxlib", f"cured by XLA_FLAGS: {what}")
    return Finding("known-bad jaxlib", f"does not occur here: {what}", "note", row.remedy)
