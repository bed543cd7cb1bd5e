"""What is installed and set on this machine, what is wrong or missing, and what to do about it."""

from flaxblocks.doctor.finding import Finding
from flaxblocks.doctor.probes import diagnose

__all__ = ["Finding", "diagnose"]
