"""References to runs of bytes, which are not read until an array is made from them."""

import mmap
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from flaxblocks.checkpoints.error import CheckpointError

__all__ = ["Buffer", "Deflated", "OfFile", "Place", "Text", "Window"]

Buffer = bytes | mmap.mmap


@dataclass(frozen=True, slots=True)
class Window:
    """`size` bytes of `buffer` from byte `start`."""

    buffer: Buffer
    start: int
    size: int

    def opened(self) -> "Window":
        """The window itself: its bytes can be viewed where they are."""
        return self


@dataclass(frozen=True, slots=True)
class Text:
    """A long text in a pickle, not decoded."""

    window: Window


@dataclass(slots=True)
class Deflated:
    """A compressed record of a zip archive, which is inflated on first use.

    Attributes:
        source: the compressed bytes.
        size: inflated size in bytes according to the archive's directory; a record that inflates to
            another size is refused.
        inflated: the inflated bytes, once there are any.
    """

    source: Window
    size: int
    inflated: Window | None = field(default=None, repr=False)

    def opened(self) -> Window:
        if self.inflated is None:
            self.inflated = Window(self._inflate(), 0, self.size)
        return self.inflated

    def _inflate(self) -> bytes:
        source = self.source
        packed = memoryview(source.buffer)[source.start : source.start + source.size]
        machine = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = machine.decompress(packed, self.size + 1)
        except zlib.error:
            content = b""
        finally:
            packed.release()
        if len(content) != self.size:
            raise CheckpointError("is a zip archive with a compressed record that is damaged")
        return content


@dataclass(slots=True)
class OfFile:
    """The whole of another file, which is memory-mapped on first use."""

    size: int
    map_file: Callable[[], Buffer]
    mapped: Window | None = field(default=None, repr=False)

    def opened(self) -> Window:
        if self.mapped is None:
            content = self.map_file()
            self.mapped = Window(content, 0, min(self.size, len(content)))
        return self.mapped


Place = Window | Deflated | OfFile
