"""Which worker runs which tests."""

from xdist.scheduler.loadfile import LoadFileScheduling

from flaxblocks.models.registry import model_entries

# Their tests are each of one model, and share next to nothing.
SPREAD = (
    "tests/parity/test_whole.py",  # each test takes long: none is left for the end
    "tests/models/test_registered.py",
    "tests/parity/test_models.py",
)
# Models whose gradients at 224x224 in float64 fit no common memory.
LARGEST = {entry.name for entry in model_entries() if (entry.parameters or 0) > 100_000_000}


class ByFile(LoadFileScheduling):
    """A file's tests go to one worker: what they compile and what their fixtures find serves all of
    them. The tests of `SPREAD` go one by one to whoever is free, of the largest models one at a
    time.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if file not in SPREAD:
            return file
        return "largest" if test.partition("[")[2].rstrip("]") in LARGEST else nodeid


def first_what_takes_long(nodeid: str) -> int:
    """A key to sort tests by: the files of `SPREAD` in their order, then all others."""
    file = nodeid.partition("::")[0]
    return SPREAD.index(file) if file in SPREAD else len(SPREAD)
