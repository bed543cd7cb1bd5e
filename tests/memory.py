"""How much memory a process of tests holds, and what gives it back."""

import ctypes
import gc
import os
from pathlib import Path

import jax

__all__ = ["forget", "share_held"]


def share_held() -> float:
    """The share of the machine's memory that this process holds; all of it where the system does
    not say.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 1.0
    return pages / os.sysconf("SC_PHYS_PAGES")


def forget() -> None:
    """Drop what JAX compiled and what nobody holds, and give the memory back to the system."""
    jax.clear_caches()
    gc.collect()
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # glibc has it
