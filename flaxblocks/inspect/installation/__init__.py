"""What is installed and set on this machine, what is wrong or missing, and what to do about it."""

from flaxblocks.inspect.installation.finding import Finding
from flaxblocks.inspect.installation.probes import diagnose

__all__ = ["Finding", "diagnose"]
