"""Cases that need several devices, run in a process that was started with so many CPUs."""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping

__all__ = ["Cases", "outcomes", "print_outcomes"]

Cases = Mapping[str, Callable[[], None]]
QUICK = "--xla_backend_optimization_level=0"  # to compile; a run is slow


def outcomes(module: str, devices: int) -> dict[str, str]:
    """What went wrong in each case of a module that calls `print_outcomes`."""
    flags = f"{QUICK} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", module],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def print_outcomes(cases: Cases) -> None:
    """Run the cases, and print a traceback, or the empty string, for each as JSON."""
    print(json.dumps({name: _outcome(case) for name, case in cases.items()}))


def _outcome(case: Callable[[], None]) -> str:
    try:
        case()
    except Exception:
        return traceback.format_exc()
    return ""
