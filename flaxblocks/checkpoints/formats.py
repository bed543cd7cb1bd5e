"""Telling a checkpoint's format from its first bytes; suffixes are not looked at.

Files that are commonly taken for checkpoints by mistake are refused with a sentence of their own.
"""

import mmap

from flaxblocks.checkpoints.error import CheckpointError, quoted

__all__ = ["LEGACY", "SAFETENSORS", "ZIP", "recognise"]

ZIP, LEGACY, SAFETENSORS = "zip", "legacy", "safetensors"

# (position, bytes there in lower case, what the file then is)
STRANGERS = (
    (
        0,
        b"version https://git-lfs",
        "is a Git LFS pointer, not the file itself; run `git lfs pull`",
    ),
    (0, b"<", "is a web page or XML, not a checkpoint; the download went wrong"),
    (0, b"{", "is JSON text, not a checkpoint"),
    (0, b"\x89hdf\r\n\x1a\n", "is an HDF5 file, not a PyTorch checkpoint"),
    (0, b"\x93numpy", "is a NumPy .npy file, not a PyTorch checkpoint"),
    (0, b"\x1f\x8b", "is compressed by gzip; decompress it first"),
    (0, b"bzh", "is compressed by bzip2; decompress it first"),
    (0, b"\xfd7zxz", "is compressed by xz; decompress it first"),
    (0, b"\x28\xb5\x2f\xfd", "is compressed by zstd; decompress it first"),
    (0, b"pk\x05\x06", "is an empty zip archive"),
    (
        257,
        b"ustar",
        "is a tar archive, as PyTorch saved before 0.1.10; load and save it there again",
    ),
)


def recognise(data: mmap.mmap) -> str:
    """The format of a file.

    Args:
        data: the file, mapped; only its first bytes are looked at.

    Returns: `ZIP`, `LEGACY` or `SAFETENSORS`.
    Raises: CheckpointError saying what the file seems to be instead.
    """
    # First, because a header's length may begin with the bytes of the others. It is below 2**32.
    if data[4:9] == b"\0\0\0\0{":
        return SAFETENSORS
    if data[:4] == b"PK\x03\x04":
        return ZIP
    if data[:1] == b"\x80":
        return LEGACY
    start = data[:512].lower()
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for position, signature, sentence in STRANGERS:
        if signature in (start[position:][: len(signature)], text[position:][: len(signature)]):
            raise CheckpointError(sentence)
    raise CheckpointError(f"is in no format known here: it begins with {quoted(data[:16])}")
