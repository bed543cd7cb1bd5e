"""Image files of more than 8 bits a channel, as cameras, scanners and microscopes write them."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["DEEP", "REFUSED", "write_colour_png", "write_deep", "write_refused", "write_tiff_12"]

# Of grey in 16 bits: suffix -> the mode that it comes in, and that Pillow reads the file in.
DEEP = {
    "little.png": ("I;16", "I;16"),
    "big.png": ("I;16B", "I;16"),
    "little.tif": ("I;16", "I;16"),
    "big.tif": ("I;16B", "I;16B"),
    "little.pgm": ("I;16", "I"),
}
# Of which nothing says what is white: suffix -> the mode that Pillow reads the file in.
REFUSED = {"unit.tif": "F", "unit.pfm": "F", "signed32.tif": "I", "signed16.tif": "I"}


def write_deep(folder: Path, name: str, grey: np.ndarray) -> Path:
    """`grey` `(H, W)`, uint16, as a file of `DEEP`."""
    given, read = DEEP[name]
    order = ">u2" if given == "I;16B" else "<u2"
    height, width = grey.shape
    Image.frombytes(given, (width, height), grey.astype(order).tobytes()).save(folder / name)
    with Image.open(folder / name) as image:
        assert image.mode == read
    return folder / name


def write_refused(folder: Path, name: str) -> Path:
    """A ramp as a file of `REFUSED`."""
    ramp = np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(64, 48)
    if name == "signed16.tif":
        words = (ramp * 65535 - 32768).astype("<i2")
        _write_tiff(folder / name, words.tobytes(), words.shape, bits=16, sample_format=2)
    else:
        pixels = ramp if REFUSED[name] == "F" else (ramp * 1000).astype(np.int32)
        Image.fromarray(pixels).save(folder / name, "PPM" if name.endswith("pfm") else None)
    with Image.open(folder / name) as image:
        assert image.mode == REFUSED[name]
    return folder / name


def write_tiff_12(path: Path, grey: np.ndarray) -> None:
    """`grey` `(H, W)` of 0 to 4095, two values in three bytes, as a TIFF file."""
    first, second = grey.reshape(-1, 2).astype(np.uint32).T
    packed = first << 12 | second
    data = np.stack([packed >> shift & 255 for shift in (16, 8, 0)], -1).astype(np.uint8)
    _write_tiff(path, data.tobytes(), grey.shape, bits=12)


def _write_tiff(
    path: Path, data: bytes, shape: tuple[int, ...], bits: int, sample_format: int = 1
) -> None:
    height, width = shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    tags |= {279: len(data), 339: sample_format}  # in ascending order, as TIFF asks for
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + directory)


def write_colour_png(path: Path, pixels: np.ndarray) -> None:
    """`pixels` `(H, W, 3)`, uint16, as a PNG file of 16 bits a channel; Pillow writes none."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
