"""Check flaxblocks on a GPU in a few minutes: all tests of `pytest -m gpu`, doctor and selftest.

    python tools/check_gpu.py --out gpu                      # on a machine with a GPU
    python tools/check_gpu.py --out cpu --on cpu --quick     # test this program without a GPU

Each part runs in its own process, several in parallel, so that a crash is only one failed part.
Results are written as they arrive: one line of JSON each to OUT.jsonl, and a table with device and
versions to OUT.md. When the time is up, running parts are ended and no others are started. The exit
status is 0 if every part passed.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

__all__ = ["Part", "Result", "parts_of", "run", "run_all", "table"]

ROOT = Path(__file__).resolve().parents[1]
TESTS = "tests/parity/test_on_gpu.py"
COMMAND = (sys.executable, "-c", "from flaxblocks.cli.main import main; main()")
# Warnings are only printed here, while they are errors in other runs of the tests.
PYTEST = (sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "-W", "default")
QUICK = ("resnet10t", "mobilenetv2_035")  # the models tested; the selftest runs the last one
PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "flax", "numpy", "torch")
CORES = os.cpu_count() or 1
LINES = 60  # number of last lines shown of the output of a part that did not pass

_running: set[int] = set()  # process groups to end with this program

Outcome = Literal["passed", "failed", "crashed", "out of time", "not started"]


@dataclass(frozen=True)
class Part:
    """One part of the check: its name, its command, and whether it is a test run by pytest."""

    name: str
    command: tuple[str, ...]
    is_test: bool = False


@dataclass(frozen=True)
class Result:
    """The result of a part: its outcome, its measurements by name, and its output."""

    part: str
    outcome: Outcome
    seconds: float = 0.0
    measured: Mapping[str, str] = field(default_factory=dict)
    output: str = ""


def environment(on: str, jobs: int) -> dict[str, str]:
    """The environment of all parts, which share the device's memory and the processors.

    It cures known faults of jaxlib's CPU backend.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about such a fault
        import jaxlib.version

        from flaxblocks.inspect.installation.known_bad import bad_rows
    cures = {row.flag for row in bad_rows(jaxlib.version.__version__) if row.flag}
    settings = {
        **os.environ,
        "FLAXBLOCKS_GPU_TESTS_ON": on,
        "OMP_NUM_THREADS": str(max(1, CORES // jobs)),  # PyTorch's threads; by default all cores
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",  # no warnings that other processes use the device
        "XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), *sorted(cures)]).strip(),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    return settings | ({"JAX_PLATFORMS": "cpu"} if on == "cpu" else {})


def parts_of(settings: Mapping[str, str], quick: bool) -> list[Part]:
    """The doctor, the selftest of each network, and each test, in the order that they start."""
    from flaxblocks.parity.cases import CASES

    listed = subprocess.run(
        [*PYTEST, "--collect-only", TESTS], cwd=ROOT, env=settings, capture_output=True, text=True
    )
    tests = [line for line in listed.stdout.splitlines() if line.startswith(f"{TESTS}::")]
    if not tests:
        raise SystemExit(f"{TESTS} cannot be collected:\n{listed.stdout}{listed.stderr}")
    if quick:
        ends = tuple(f"[{name}]" for name in QUICK)
        tests = [test for test in tests if "[" not in test or test.endswith(ends)]
    models, blocks = dict.fromkeys(c.name for c in CASES if not c.is_block), "[A-Z]*"
    return [
        Part("doctor", (*COMMAND, "doctor")),
        *(
            Part(f"selftest {pattern}", (*COMMAND, "selftest", pattern))
            for pattern in (QUICK[-1:] if quick else (blocks, *models))
        ),
        *(Part(test.partition("::test_")[2], (*PYTEST, test), is_test=True) for test in tests),
    ]


def run(part: Part, settings: Mapping[str, str], deadline: float) -> Result:
    """Run a part until it ends or `time.monotonic()` reaches the deadline."""
    started = time.monotonic()
    if started >= deadline:
        return Result(part.name, "not started")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [*part.command, *([f"--junitxml={report}"] if part.is_test else [])]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that processes started by tests end together
        )
        _running.add(process.pid)
        try:
            output, _ = process.communicate(timeout=deadline - started)
            outcome = _outcome(process.returncode, report if part.is_test else None)
        except subprocess.TimeoutExpired:
            outcome = "out of time"
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
        _running.discard(process.pid)
        measured = dict(_measured(report)) if report.exists() else {}
    return Result(part.name, outcome, time.monotonic() - started, measured, output)


def _outcome(status: int, report: Path | None) -> Outcome:
    """The outcome of a process; a test that was skipped counts as failed."""
    if status == 0 and report is not None:
        (suite,) = ElementTree.parse(report).getroot()
        counts = {name: int(suite.get(name, 0)) for name in ("tests", "skipped")}
        return "passed" if counts["tests"] > counts["skipped"] else "failed"
    return "passed" if status == 0 else "failed" if status == 1 else "crashed"


def _measured(report: Path) -> Iterator[tuple[str, str]]:
    """The properties that a test recorded in its report, with numbers as `3.1e-15`."""
    for found in ElementTree.parse(report).iter("property"):
        value = found.get("value", "")
        with contextlib.suppress(ValueError):
            value = f"{float(value):.1e}"
        yield found.get("name", ""), value


def run_all(
    parts: Sequence[Part], settings: Mapping[str, str], deadline: float, jobs: int
) -> Generator[Result]:
    """Yield results as they arrive. If it is closed early, as by Ctrl-C, it ends running parts."""
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run, part, settings, deadline) for part in parts]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in futures):  # one may be just starting
                for group in tuple(_running):
                    with suppress(ProcessLookupError):
                        os.killpg(group, signal.SIGKILL)
                time.sleep(0.05)


def versions() -> dict[str, str]:
    """The versions of Python and of the installed packages among `PACKAGES`."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def table(parts: Sequence[Part], results: Mapping[str, Result], seconds: float) -> str:
    """The results so far in Markdown, with device, versions, and the output of failed parts and
    reports.
    """
    doctor = results.get("doctor", Result("doctor", "not started")).output
    devices = [line.split(maxsplit=2)[2] for line in doctor.splitlines() if "  devices  " in line]
    counts = [result.outcome for result in results.values()]
    said = ", ".join(f"{counts.count(outcome)} {outcome}" for outcome in dict.fromkeys(counts))
    lines = [
        f"# flaxblocks on {'; '.join(devices) or 'a device that the doctor could not name'}",
        "",
        ", ".join(f"{name} {found}" for name, found in versions().items()),
        "",
        f"{len(counts)} of {len(parts)} parts in {seconds:.0f} s: {said or 'none'}.",
        "",
        "| part | outcome | measured | s |",
        "|---|---|---|---:|",
    ]
    done = [results[part.name] for part in parts if part.name in results]
    for result in done:
        measured = ", ".join(f"{name} {value}" for name, value in result.measured.items())
        lines.append(f"| {result.part} | {result.outcome} | {measured} | {result.seconds:.0f} |")
    for result in done:
        is_report = result.part.startswith(("doctor", "selftest"))
        if result.output and (is_report or result.outcome != "passed"):
            output = result.output.rstrip().splitlines()
            cut = output if result.outcome == "passed" else output[-LINES:]
            lines += ["", f"## {result.part}", "", "```text", *cut, "```"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run every part, and write the results."""
    parser = argparse.ArgumentParser(description="check flaxblocks on a GPU in a few minutes")
    parser.add_argument("--out", type=Path, required=True, help="write OUT.jsonl and OUT.md")
    parser.add_argument("--on", choices=("gpu", "cpu"), default="gpu", help="device to check")
    parser.add_argument("--quick", action="store_true", help=f"only test {' and '.join(QUICK)}")
    parser.add_argument("--minutes", type=float, default=7.5, help="time limit; by default 7.5")
    parser.add_argument(
        "--jobs", type=int, default=CORES, help="parts in parallel; by default one per processor"
    )
    options = parser.parse_args()
    started = time.monotonic()
    sys.path.insert(0, str(ROOT))  # flaxblocks need not be installed
    settings = environment(options.on, options.jobs)
    parts = parts_of(settings, options.quick)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines, page = (options.out.with_name(options.out.name + end) for end in (".jsonl", ".md"))
    results: dict[str, Result] = {}
    with lines.open("w", encoding="utf-8") as file:
        for result in run_all(parts, settings, started + 60 * options.minutes, options.jobs):
            results[result.part] = result
            print(f"{result.outcome:11}  {result.seconds:4.0f} s  {result.part}", flush=True)
            file.write(json.dumps(asdict(result)) + "\n")
            file.flush()
            page.write_text(table(parts, results, time.monotonic() - started), encoding="utf-8")
    sys.exit(any(result.outcome != "passed" for result in results.values()))


if __name__ == "__main__":
    main()
