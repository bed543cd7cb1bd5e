"""Whatever the bytes of a file, reading it gives arrays or a CheckpointError, and costs little.

Small files of every format are damaged in many thousand ways, always the same ones: the random
generators are seeded. `tools/fuzz_reader.py` finds other ways.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from tests.checkpoints.checkpoint_samples import npy, zip_file
from tests.checkpoints.fuzz_programs import EXTREMES, RANDOM_CASES, calls, soups
from tests.checkpoints.fuzz_seeds import SEEDS
from tests.checkpoints.reader_promises import all_told, is_refused, memory_traced


def flips(content: bytes, random: np.random.Generator) -> Iterator[bytes]:
    """One bit of every byte in turn, and several bits anywhere."""
    for at in range(len(content)):
        yield damaged(content, {at: content[at] ^ (1 << int(random.integers(8)))})
    for _ in range(RANDOM_CASES):
        places = random.integers(len(content), size=random.integers(2, 9)).tolist()
        yield damaged(content, {at: content[at] ^ (1 << int(random.integers(8))) for at in places})


def damaged(content: bytes, changes: dict[int, int]) -> bytes:
    changed = bytearray(content)
    for at, value in changes.items():
        changed[at] = value
    return bytes(changed)


def truncations(content: bytes, random: np.random.Generator) -> Iterator[bytes]:
    """Cut at every byte, from either end."""
    for at in range(len(content)):
        yield content[:at]
        if at % 4 == 0:
            yield content[at + 1 :]


def splices(content: bytes, random: np.random.Generator) -> Iterator[bytes]:
    """A piece moved, repeated or left out."""
    for _ in range(RANDOM_CASES):
        a, b, c = (int(at) for at in random.integers(len(content), size=3))
        a, b = sorted((a, min(b, a + 64)))
        piece = content[a:b]
        yield content[:c] + piece + content[c:]
        yield content[:c] + piece + content[c + len(piece) :]
        yield content[:a] + content[b:]


def numbers(content: bytes, random: np.random.Generator) -> Iterator[bytes]:
    """A number of some width overwritten by an extreme one."""
    for _ in range(RANDOM_CASES):
        at, width = int(random.integers(len(content))), int(random.choice([1, 2, 4, 8]))
        value = EXTREMES[int(random.integers(len(EXTREMES)))] % 2 ** (8 * width)
        yield content[:at] + value.to_bytes(width, "little") + content[at + width :]


@pytest.mark.parametrize("damage", [flips, truncations, splices, numbers])
@pytest.mark.parametrize("seed", SEEDS)
def test_damaged_files(seed, damage, tmp_path):
    sound = SEEDS[seed]()
    source = sound.put_beside(tmp_path)
    path = tmp_path / sound.name
    files = map(sound.file, damage(sound.content, np.random.default_rng(0)))
    with memory_traced():
        assert not is_refused(sound.file(sound.content), path, source, all_told)
        refused = sum(is_refused(file, path, source) for file in files)
    assert refused > RANDOM_CASES / 10 if sound.needed else not refused


@pytest.mark.parametrize("programs", [soups, calls])
def test_programs_at_random(programs, tmp_path):
    files = map(zip_file, programs(np.random.default_rng(0)))
    with memory_traced():
        refused = sum(is_refused(file, tmp_path / "f") for file in files)
    assert refused > RANDOM_CASES


# Files that broke a promise once, as small as they could be made.
FOUND = {
    "a number with a word behind it": npy("1or 2"),
    "another": npy("1.or 2"),
    "an octal one": npy("0o7or 2"),
    "an escape that is none": npy(r"{'descr': '\d'}"),
    "an escape beyond Latin-1": npy(r"'\477'"),
}


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found(what, tmp_path):
    with memory_traced():
        assert is_refused(FOUND[what], tmp_path / "f")
