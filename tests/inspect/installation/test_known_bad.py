"""Releases of jaxlib that compute wrongly: the table, what shows each fault, and the warning."""

import json
import subprocess
import sys
from dataclasses import replace

import jax
import jaxlib.version
import pytest

from flaxblocks.inspect.installation import known_bad, reproductions
from flaxblocks.inspect.installation.known_bad import (
    BAD_JAXLIBS,
    BadJaxlib,
    bad_rows,
    is_cured,
    may_run_on,
)

ROWS = {row.source: row for row in BAD_JAXLIBS}
CURE = "--xla_cpu_experimental_ynn_fusion_type="


@pytest.mark.parametrize("row", BAD_JAXLIBS, ids=ROWS)
def test_a_fault_shows_exactly_where_the_table_says(row: BadJaxlib) -> None:
    says = row in bad_rows(jaxlib.version.__version__) and not is_cured(row)
    assert reproductions.shows_here(row) == says


@pytest.mark.parametrize("row", BAD_JAXLIBS, ids=ROWS)
def test_a_wrong_number_shows(row: BadJaxlib, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "jit", lambda function: lambda *inputs: function(*inputs) + 1)
    assert reproductions.shows_here(row)


@pytest.mark.parametrize(
    ("release", "sources"),
    [
        ("0.10.1", []),
        ("0.10.2", ["jax#39103", "tensorflow#126812"]),
        ("0.10.2.dev20260601", ["jax#39103", "tensorflow#126812"]),
        ("0.11.0", ["tensorflow#126812"]),
        ("0.11.2", ["tensorflow#126812"]),
        ("0.12.0", []),
        ("0.12.0.1", []),
    ],
)
def test_the_faults_of_a_release(release: str, sources: list[str]) -> None:
    assert [row.source for row in bad_rows(release)] == sources


@pytest.mark.parametrize(
    ("platforms", "installed", "backends"),
    [
        ("", ["jaxlib"], ["cpu"]),
        (None, ["jaxlib", "jax-cuda13-plugin"], ["cpu", "cuda"]),
        (None, ["jaxlib", "libtpu"], ["cpu", "tpu"]),
        ("cuda", ["jaxlib", "jax-cuda13-plugin"], ["cuda"]),
        ("cuda,cpu", ["jaxlib"], ["cpu", "cuda"]),
        ("gpu", ["jaxlib"], ["cuda", "rocm"]),
    ],
)
def test_where_jax_may_run_is_told_from_settings_and_plugins(
    platforms: str | None,
    installed: list[str],
    backends: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(known_bad, "jax_setting", lambda _: platforms)
    monkeypatch.setattr(known_bad, "_is_installed", installed.__contains__)
    assert [backend for backend in known_bad.PLUGINS if may_run_on(backend)] == backends


@pytest.mark.parametrize(
    ("flags", "cured"),
    [
        ("", False),
        (CURE, True),
        (f"--xla_cpu_enable_fast_math=false {CURE}", True),
        (f"{CURE}reduce", False),
        (f"{CURE} {CURE}reduce", False),
        (f"{CURE}reduce {CURE}", True),
    ],
)
def test_the_last_word_on_a_flag_counts(
    flags: str, cured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert [is_cured(row) for row in BAD_JAXLIBS] == [cured] * len(BAD_JAXLIBS)
    assert not is_cured(replace(BAD_JAXLIBS[0], flag=""))


def imported(release: str, **settings: str) -> tuple[list[list[str]], bool]:
    """The warnings of `import flaxblocks`, and whether it started a backend."""
    script = f"""
import json, os, warnings
os.environ.update({settings!r})
import jax, flax.nnx, jaxlib.version
from jax._src import xla_bridge
jaxlib.version.__version__ = {release!r}
with warnings.catch_warnings(record=True, action="always") as seen:
    import flaxblocks
    import flaxblocks.blocks
    import flaxblocks as fb
seen = [[w.category.__name__, str(w.message), w.filename] for w in seen]
print(json.dumps([seen, xla_bridge.backends_are_initialized()]))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return tuple(json.loads(ran.stdout))


def test_the_import_warns_once_and_starts_no_backend() -> None:
    [[category, message, place]], started = imported("0.10.2", XLA_FLAGS="", JAX_PLATFORMS="")
    assert not started
    assert category == "KnownBadJaxlib"
    assert place == "<string>"  # the line that imports flaxblocks
    assert message == (
        "jaxlib 0.10.2 computes wrong numbers (on the CPU, compiled sums of squares of many "
        "matrix-vector products, jax#39103; on the CPU, sums over a broadcast array, by a "
        "different amount in each call, tensorflow#126812): pip install 'jax>=0.12', or "
        f"'jax==0.10.1' for Python 3.11; or add {CURE} to XLA_FLAGS before Python starts"
    )


@pytest.mark.parametrize(
    ("release", "settings"),
    [
        ("0.12.0", {"XLA_FLAGS": ""}),
        ("0.10.2", {"XLA_FLAGS": CURE}),
        ("0.10.2", {"XLA_FLAGS": "", "JAX_PLATFORMS": "cuda"}),
    ],
)
def test_the_import_is_silent_where_nothing_is_wrong(
    release: str, settings: dict[str, str]
) -> None:
    assert imported(release, **settings) == ([], False)
