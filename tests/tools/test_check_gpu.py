"""The program that tries a GPU: whatever becomes of a part is one line, and time is kept."""

import os
import sys
import time
from pathlib import Path

import pytest

from tools.check_gpu import Part, Result, run, run_all, table

SOON = 600.0  # seconds, which no part here takes


def python(program: str, name: str = "part") -> Part:
    return Part(name, (sys.executable, "-c", program))


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("print('done')", "passed"),
        ("print('done'); raise SystemExit(1)", "failed"),
        ("print('done', flush=True); import os; os.abort()", "crashed"),
        ("print('done'); raise SystemExit(3)", "crashed"),
    ],
)
def test_a_part_passes_fails_or_crashes(program: str, outcome: str) -> None:
    result = run(python(program), os.environ, time.monotonic() + SOON)
    assert (result.part, result.outcome, result.output) == ("part", outcome, "done\n")


def test_when_time_is_up_what_runs_is_ended_and_nothing_starts(tmp_path: Path) -> None:
    """With the processes that it started itself."""
    child = "import signal; signal.pause()"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    started = time.monotonic()
    assert run(python(program), os.environ, started + 1).outcome == "out of time"
    assert time.monotonic() - started < SOON
    assert run(python(f"open({str(tmp_path / 'ran')!r}, 'w')"), os.environ, started) == Result(
        "part", "not started"
    )
    assert not (tmp_path / "ran").exists()


TEST = """
import pytest

def test_it(record_property):
    record_property("float64", 3.14e-15)
    record_property("seen", "TF32")
    {}
"""


@pytest.mark.parametrize(
    ("last", "outcome"),
    [("pass", "passed"), ("assert False", "failed"), ("pytest.skip()", "failed")],
)
def test_a_test_gives_what_it_measured_and_a_skipped_one_has_not_passed(
    last: str, outcome: str, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(TEST.format(last))
    command = (sys.executable, "-m", "pytest", "-c", os.devnull, str(tmp_path / "test_it.py"))
    result = run(Part("it", command, is_test=True), os.environ, time.monotonic() + SOON)
    assert (result.outcome, result.measured) == (outcome, {"float64": "3.1e-15", "seen": "TF32"})


def test_left_early_it_ends_what_runs() -> None:
    parts = [python("pass"), python("import signal; signal.pause()", "endless")]
    results = run_all(parts, os.environ, time.monotonic() + SOON, 2)
    assert next(results).outcome == "passed"
    results.close()  # which would wait for what still ran


def test_the_table_has_device_and_versions_and_what_did_not_pass() -> None:
    parts = [Part(name, ()) for name in ("doctor", "well", "ill", "later")]
    results = [
        Result("ill", "crashed", 2.0, output="core dumped"),
        Result("doctor", "passed", 1.0, output="ok    devices            One GPU, 80 GB for JAX\n"),
        Result("well", "passed", 3.0, {"float64": "3.1e-15"}, "1 passed"),
    ]
    lines = table(parts, {result.part: result for result in results}, 12.0).splitlines()
    assert lines[0] == "# flaxblocks on One GPU, 80 GB for JAX"
    assert "torch " in lines[2]
    assert lines[4] == "3 of 4 parts in 12 s: 1 crashed, 2 passed."
    assert "| well | passed | float64 3.1e-15 | 3 |" in lines
    assert lines.index("| doctor | passed |  | 1 |") < lines.index("| ill | crashed |  | 2 |")
    assert lines[lines.index("## ill") + 3] == "core dumped"
    assert "1 passed" not in lines
