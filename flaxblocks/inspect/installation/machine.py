"""Huge pages, and the cache folders."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

from flaxblocks.inspect.installation.finding import Finding
from flaxblocks.inspect.installation.known_bad import jax_setting
from flaxblocks.weights.fetch import OTHER_FOLDER, cache_folder

__all__ = ["compilation_cache", "huge_pages", "weights_cache"]

KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLE = "glibc.malloc.hugetlb"
LARGEST = 3e9  # bytes: regnet_y_128gf's weights are 2.6 GB


def huge_pages() -> Iterator[Finding]:
    """Whether the memory that XLA allocates in each call is in huge pages (CPUs on Linux only)."""
    if not sys.platform.startswith("linux") or jax.default_backend() != "cpu":
        return
    library, release = platform.libc_ver()
    modes = KERNEL.read_text() if KERNEL.exists() else "[never]"
    mode = modes.partition("[")[2].partition("]")[0]
    tunables = os.environ.get("GLIBC_TUNABLES", "").split(":")
    asked = any(f"{TUNABLE}={way}" in tunables for way in (1, 2))
    remedy = f"export GLIBC_TUNABLES={TUNABLE}=1 before Python starts"
    value = f"{mode} in the kernel, {'' if asked else 'not '}requested by GLIBC_TUNABLES"
    if mode == "always" or (asked and mode == "madvise"):
        yield Finding("huge pages", value)
    elif mode == "never":
        allow = f"echo madvise | sudo tee {KERNEL}"
        yield Finding("huge pages", value, "note", f"{allow}; {remedy}")
    elif library != "glibc" or tuple(map(int, release.split(".")[:2])) < (2, 35):
        yield Finding("huge pages", f"{value}, which needs glibc 2.35")
    else:
        gain = "with it MobileNetV2 took 3.6 ms instead of 7.1"
        yield Finding("huge pages", value, "note", f"{remedy}: {gain}")


def weights_cache() -> Iterator[Finding]:
    """The cache folder of published weights, and whether it is writable and has enough space."""
    folder = cache_folder()
    free = shutil.disk_usage(_nearest(folder)).free
    value = f"{folder}, {free / 1e9:.1f} GB free"
    if problem := _write_problem(folder):
        yield Finding("weights cache", f"{folder} {problem}", "note", OTHER_FOLDER)
    elif free < LARGEST:
        remedy = f"{OTHER_FOLDER}: a network's weights take up to {LARGEST / 1e9:.0f} GB"
        yield Finding("weights cache", value, "note", remedy)
    else:
        yield Finding("weights cache", value)


def compilation_cache() -> Iterator[Finding]:
    """The folder in which JAX caches compiled programs for later processes."""
    folder = jax_setting("jax_compilation_cache_dir")
    setting = "set JAX_COMPILATION_CACHE_DIR to a folder"
    if not folder:
        remedy = f"{setting}, so that the next process need not compile again"
        yield Finding("compilation cache", "off", "note", remedy)
    elif "://" in folder:
        yield Finding("compilation cache", folder)
    elif problem := _write_problem(Path(folder)):
        remedy = f"{setting} that can be written"
        yield Finding("compilation cache", f"{folder} {problem}", "note", remedy)
    else:
        yield Finding("compilation cache", folder)


def _write_problem(folder: Path) -> str | None:
    """Why no file can be created in `folder`, or its nearest existing parent; else None."""
    try:
        with tempfile.TemporaryFile(dir=_nearest(folder)):
            return None
    except OSError as error:
        return f"cannot be written: {error.strerror}"


def _nearest(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
