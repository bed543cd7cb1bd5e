"""Reading the bytes of a pickle in sequence: opcodes and their operands.

No length is trusted until the file is known to hold as many bytes, and long runs are not copied.
"""

from flaxblocks.checkpoints.error import CheckpointError
from flaxblocks.checkpoints.window import Buffer, Window

__all__ = ["PickleBytes"]

# Not counting what stays in the file. A thousand tensors take about 0.15 MB and 50,000 opcodes.
MOST_BYTES = 64 * 2**20
LONGEST_INTEGER = 255
LONG = 1024  # a text or run of at least as many bytes stays in the file


class PickleBytes:
    """A pickle that begins at byte `start` of `data`, and must end by byte `end`.

    Attributes:
        position: position of the next byte.
    """

    def __init__(self, data: Buffer, start: int, end: int) -> None:
        self.data = data
        self.position = start
        self.end = min(end, start + MOST_BYTES)
        self.last = end

    def byte(self) -> int:
        position = self.position
        if position >= self.end:
            raise self.cut_short()
        self.position = position + 1
        return self.data[position]

    def take(self, count: int) -> bytes:
        start, self.position = self.position, self.position + count
        if self.position > self.end:
            raise self.cut_short()
        return self.data[start : self.position]

    def cut_short(self) -> CheckpointError:
        if self.end < self.last:
            return CheckpointError(f"holds a pickle of more than {MOST_BYTES} bytes")
        return CheckpointError("is truncated or damaged: its pickle is cut short")

    def unsigned(self, width: int) -> int:
        start, stop = self.position, self.position + width  # `self.take(width)`, inlined for speed
        if stop > self.end:
            raise self.cut_short()
        self.position = stop
        return int.from_bytes(self.data[start:stop], "little")

    def counted(self, width: int) -> bytes | Window:
        """Bytes preceded by their count, which is stored in `width` bytes."""
        count = self.unsigned(width)
        return self.take(count) if count < LONG else self.passed_over(count)

    def passed_over(self, count: int) -> Window:
        """Bytes that stay in the file and do not count towards `MOST_BYTES`."""
        start = self.position
        if start + count > self.last:
            self.end = self.last
            raise self.cut_short()
        self.position = start + count
        self.end = min(self.end + count, self.last)
        return Window(self.data, start, count)

    def number(self, count: int) -> int:
        if count > LONGEST_INTEGER:
            raise CheckpointError(f"holds an integer of {count} bytes")
        return int.from_bytes(self.take(count), "little", signed=True)

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.end)
        if end < 0:
            raise self.cut_short()
        return self.take(end + 1 - self.position)[:-1].decode()
