"""Comparison of several ways to compute the same: each in its own process, in turns, by medians."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

__all__ = ["Way", "compare", "measure"]

SECONDS = 2.0  # minimum total of timed calls in each process

Way = Callable[[str, int], Callable[[], object]]  # (model, batch size) -> the call to time


def measure(way: Way, model: str, batch: int) -> dict[str, float]:
    """The duration of a call in milliseconds: the median, and that of the first, which compiles."""
    run = way(model, batch)
    start = time.perf_counter()
    run()
    first = time.perf_counter() - start
    times: list[float] = []
    while sum(times) < SECONDS or len(times) < 5:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return {"median": 1e3 * statistics.median(times), "first": 1e3 * first}


def compare(
    command: Sequence[str], ways: Mapping[str, Way], baseline: str, batch: int, rounds: int
) -> None:
    """Print the median of each way, in ms and as a multiple of the baseline's.

    Two thread pools never share the cores, and the ways take turns, so that a noisy period affects
    all of them.

    Args:
        command: arguments for Python that print the result of `measure` for `--one WAY BATCH`.
        ways: the ways by name.
        baseline: name of the way that the others are compared with.
        batch: number of images per call.
        rounds: number of turns of each way.
    """
    results: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, runs in results.items():
            one = [sys.executable, *command, "--one", way, str(batch)]
            output = subprocess.run(one, check=True, capture_output=True, text=True).stdout
            runs.append(json.loads(output.splitlines()[-1]))
    medians = {way: statistics.median(r["median"] for r in runs) for way, runs in results.items()}
    for way, median in medians.items():
        first = statistics.median(r["first"] for r in results[way]) / 1e3
        ratio = median / medians[baseline]
        cells = f"{median:8.1f} {ratio:6.2f}x  first call {first:.1f} s"
        print(
            f"batch {batch:3}  {way:20} {cells}  {1e3 * batch / median:8.0f} images/s", flush=True
        )
