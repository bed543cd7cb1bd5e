"""All examinations of the doctor, in order."""

from collections.abc import Callable, Iterable, Iterator

from flaxblocks.inspect.installation.finding import Finding
from flaxblocks.inspect.installation.jax_state import devices, known_bad, precision, xla_flags
from flaxblocks.inspect.installation.machine import compilation_cache, huge_pages, weights_cache
from flaxblocks.inspect.installation.packages import needs, versions

__all__ = ["diagnose"]

PROBES: tuple[Callable[[], Iterable[Finding]], ...] = (
    *(versions, devices, known_bad, precision, xla_flags),
    *(huge_pages, weights_cache, compilation_cache, needs),
)


def diagnose() -> Iterator[Finding]:
    """Run all probes. A probe that fails becomes a finding itself, and the others still run."""
    for probe in PROBES:
        try:
            yield from probe()
        except Exception as error:  # from any library, on any machine
            name = probe.__name__.replace("_", " ")
            reason = " ".join(str(error).split())[:200]
            yield Finding(name, f"cannot be examined: {type(error).__name__}: {reason}", "note")
