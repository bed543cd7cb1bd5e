"""Look for a file that makes the checkpoint reader break a promise, guided by the code it reaches.

    pip install atheris
    python -m tools.fuzz_reader parts --corpus corpus --seconds 3600

The promises are those of `tests/checkpoints/reader_promises.py`, which its tests hold as well. An
input is a byte that says which of the tests' sound files it takes the place of, then the whole file
(`files`) or its most telling part, such as the pickle within a sound archive (`parts`). What
reaches new code is kept in the corpus, where a later run goes on. The first input that breaks a
promise ends the run and is written beside the corpus, as `crash-...`; fix the reader, and put the
smallest such input into the tests.
"""

import argparse
import contextlib
import gc
import pickletools
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from tests.checkpoints.fuzz_programs import OPCODES, VALUES, call, choice
from tests.checkpoints.fuzz_seeds import SEEDS, Seed
from tests.checkpoints.reader_promises import all_told, is_refused, memory_traced

__all__ = ["Harness", "boundaries", "mutated", "seeds_of"]

LARGEST = 2**14  # bytes of an input; the largest sound one has a third of it
SECONDS = 600  # of the clock, until what does not come back is ended; the promise is 2 of work
MEGABYTES = 4096  # of this process; the promise is a smaller one
READER = "flaxblocks.checkpoints."
PROGRAM = b"\x80"  # how a pickle begins


def seeds_of(which: str) -> list[Seed]:
    """The sound files of which everything ("files") or a part ("parts") is damaged."""
    seeds = [make() for make in SEEDS.values()]
    return [seed for seed in seeds if (seed.file is bytes) == (which == "files")]


class Harness:
    """Reads inputs, each as a file in a folder of its kind.

    Args:
        seeds: the kinds.
        folder: an empty one, for the files.
    """

    def __init__(self, seeds: Sequence[Seed], folder: Path) -> None:
        self.seeds = seeds
        self.paths: list[Path] = []
        self.sources: list[Path] = []
        for index, seed in enumerate(seeds):
            own = folder / str(index)
            own.mkdir()
            self.paths.append(own / seed.name)
            self.sources.append(seed.put_beside(own))

    def inputs(self) -> list[bytes]:
        """The sound ones."""
        return [bytes([index]) + seed.content for index, seed in enumerate(self.seeds)]

    def __call__(self, data: bytes) -> None:
        """Read one; within `memory_traced`.

        Raises: AssertionError, or whatever else the reader lets through, for a broken promise.
        """
        if not data:
            return
        index = data[0] % len(self.seeds)
        content = self.seeds[index].file(data[1:])
        path, source = self.paths[index], self.sources[index]
        if content and not is_refused(content, path, source):
            is_refused(content, path, source, all_told)


def mutated(data: bytes, most: int, number: int, otherwise: Callable[[bytes, int], bytes]) -> bytes:
    """An input that differs from `data` a little.

    In every second pickle, opcodes are left out, repeated and put in with what they need.

    Args:
        data: an input of the harness.
        most: bytes that the new one may have.
        number: decides what is done.
        otherwise: makes the other inputs from bytes and `most`.
    """
    random = np.random.default_rng(number)
    if data[1:2] != PROGRAM or random.random() < 0.5:
        return otherwise(data, most)
    program = data[1:]
    for _ in range(int(random.integers(1, 4))):
        program = _with_other_opcodes(program, random)
    return (data[:1] + program)[:most]


def _with_other_opcodes(program: bytes, random: np.random.Generator) -> bytes:
    places = boundaries(program)
    first, second, third = (places[int(at)] for at in random.integers(len(places), size=3))
    start, end = sorted((first, min(second, first + 64)))
    match int(random.integers(5)):
        case 0:
            return program[:start] + program[end:]
        case 1:
            return program[:third] + program[start:end] + program[third:]
        case 2:
            piece = choice(random, OPCODES)
        case 3:
            piece = choice(random, VALUES)
        case _:
            piece = call(random, depth=1)
    return program[:start] + piece + program[start if random.random() < 0.5 else end :]


def boundaries(program: bytes) -> list[int]:
    """Where opcodes begin, as far as the program makes sense, and its end."""
    places: list[int] = []
    with contextlib.suppress(ValueError):
        places += (place for _, _, place in pickletools.genops(program) if place is not None)
    return [*places, len(program)]


def main() -> None:
    """Fuzz until the time is up or a promise is broken."""
    parser = argparse.ArgumentParser(description="Fuzz the checkpoint reader.")
    parser.add_argument("which", choices=["files", "parts"], help="what is made up")
    parser.add_argument("--corpus", type=Path, required=True, help="a folder, made if need be")
    parser.add_argument("--seconds", type=int, default=3600, help="how long (default: an hour)")
    options = parser.parse_args()
    options.corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, memory_traced():
        harness = Harness(seeds_of(options.which), Path(folder))
        for index, data in enumerate(harness.inputs()):
            (options.corpus / f"sound-{index}").write_bytes(data)
        _fuzz(harness, options.corpus, options.seconds)


def _fuzz(harness: Harness, corpus: Path, seconds: int) -> None:
    atheris: Any = import_module("atheris")  # needed for nothing else
    for function in _reader_functions():
        atheris.instrument_func(function)  # which then tells what of it is reached
    arguments = [
        *("fuzz_reader", str(corpus), f"-artifact_prefix={corpus.parent}/"),
        *(f"-max_total_time={seconds}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}"),
        *(f"-max_len={LARGEST}", "-print_final_stats=1"),
    ]

    def mutator(data: bytes, most: int, number: int) -> bytes:
        return mutated(data, most, number, atheris.Mutate)

    atheris.Setup(arguments, harness, custom_mutator=mutator)
    atheris.Fuzz()


def _reader_functions() -> list[FunctionType]:
    """Those in tables and classes among them."""
    functions = (found for found in gc.get_objects() if type(found) is FunctionType)
    return [function for function in functions if str(function.__module__).startswith(READER)]


if __name__ == "__main__":
    main()
