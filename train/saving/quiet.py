"""Orbax and TensorStore tell of one failure many times, from many threads; what they raise in the
end says it once.
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
    """Keep what Orbax's threads print from standard error. What it raises is as before."""
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    thread_died, unraisable = threading.excepthook, sys.unraisablehook

    def other_threads_died(args: Any) -> None:
        if not type(args.thread).__module__.startswith("orbax."):
            thread_died(args)

    def other_unraisable(args: Any) -> None:
        # A read that fails ends its event loop while TensorStore still reports the other arrays.
        if not str(args.exc_value).startswith(LATE):
            unraisable(args)

    threading.excepthook = other_threads_died
    sys.unraisablehook = other_unraisable
