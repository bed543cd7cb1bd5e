"""Huge pages, and folders that cannot be written."""

import platform
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

from flaxblocks.inspect.installation import machine

ASKED = "glibc.malloc.tcache_count=0:glibc.malloc.hugetlb=1"


class Usage(NamedTuple):
    free: float


@pytest.mark.parametrize(
    ("kernel", "tunables", "libc", "status", "remedy"),
    [
        ("always [madvise] never", "", ("glibc", "2.36"), "note", "export GLIBC_TUNABLES="),
        ("always [madvise] never", ASKED, ("glibc", "2.36"), "ok", None),
        ("[always] madvise never", "", ("glibc", "2.36"), "ok", None),
        ("always madvise [never]", ASKED, ("glibc", "2.36"), "note", "echo madvise | sudo tee "),
        ("always [madvise] never", "", ("glibc", "2.31"), "ok", None),
        ("always [madvise] never", "", ("", ""), "ok", None),
    ],
)
def test_huge_pages_take_the_kernel_and_the_c_library(
    kernel: str,
    tunables: str,
    libc: tuple[str, str],
    status: str,
    remedy: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "enabled").write_text(kernel)
    monkeypatch.setattr(machine, "KERNEL", tmp_path / "enabled")
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    [found] = machine.huge_pages()
    assert found.status == status
    assert found.remedy is None if remedy is None else (found.remedy or "").startswith(remedy)


def test_huge_pages_are_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert list(machine.huge_pages()) == []


def test_the_weights_cache_is_looked_at_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAXBLOCKS_CACHE", str(tmp_path / "a" / "b"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free=5e9))
    [found] = machine.weights_cache()
    assert (found.status, found.value) == ("ok", f"{tmp_path / 'a' / 'b'}, 5.0 GB free")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free=1e9))
    [found] = machine.weights_cache()
    assert found.status == "note"
    assert "up to 3 GB" in (found.remedy or "")


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/flaxblocks"])
def test_a_cache_that_cannot_be_written_is_named(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / place)
    monkeypatch.setenv("FLAXBLOCKS_CACHE", folder)
    monkeypatch.setattr(machine, "jax_setting", lambda _: folder)
    [weights], [compiled] = machine.weights_cache(), machine.compilation_cache()
    for found, remedy in ((weights, "FLAXBLOCKS_CACHE"), (compiled, "JAX_COMPILATION_CACHE_DIR")):
        assert found.status == "note"
        assert found.value.startswith(f"{folder} cannot be written: ")
        assert remedy in (found.remedy or "")


@pytest.mark.parametrize(
    ("folder", "status", "value"),
    [(None, "note", "off"), ("gs://bucket/jax", "ok", "gs://bucket/jax"), (".", "ok", ".")],
)
def test_the_compilation_cache(
    folder: str | None, status: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "jax_setting", lambda _: folder)
    [found] = machine.compilation_cache()
    assert (found.status, found.value) == (status, value)
