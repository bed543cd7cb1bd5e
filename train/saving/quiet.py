"""Silence Orbax and TensorStore, which report one failure many times from many threads.

The error that they raise in the end says it once.
"""

import logging
import sys
import threading
from functools import cache
from typing import Any

__all__ = ["quiet_orbax"]

LATE = ("Event loop is closed", "Encountered error while reading array index")


@cache
def quiet_orbax() -> None:
    """Keep messages of Orbax's threads off stderr. The errors that it raises are not affected."""
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    thread_died, unraisable = threading.excepthook, sys.unraisablehook

    def other_threads_died(args: Any) -> None:
        if not type(args.thread).__module__.startswith("orbax."):
            thread_died(args)

    def other_unraisable(args: Any) -> None:
        # A failed read closes its event loop while TensorStore still reports on other arrays.
        if not str(args.exc_value).startswith(LATE):
            unraisable(args)

    threading.excepthook = other_threads_died
    sys.unraisablehook = other_unraisable
