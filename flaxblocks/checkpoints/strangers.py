"""Error messages for files and folders of other kinds that are mistaken for checkpoints."""

import re
from pathlib import Path

from flaxblocks.checkpoints.error import CheckpointError, quoted

__all__ = ["refuse_file", "refuse_folder"]

TENSORFLOW = (
    "is a part of a TensorFlow checkpoint; read it with `tf.train.load_checkpoint` and save "
    "the arrays with `numpy.savez`"
)

# (position, bytes there in lower case, what the file then is)
STRANGERS = (
    (
        0,
        b"version https://git-lfs",
        "is a Git LFS pointer, not the file itself; run `git lfs pull`",
    ),
    (0, b"<", "is a web page or XML, not a checkpoint; the download went wrong"),
    (0, b"{", "is JSON text, not a checkpoint"),
    (0, b"[", "is JSON text, not a checkpoint"),
    (0, b"\x89hdf\r\n\x1a\n", "is an HDF5 file, as Keras writes, not a PyTorch checkpoint"),
    (0, b"\x93numpy", "is a NumPy .npy file, not a PyTorch checkpoint"),
    (0, b"\x1f\x8b", "is compressed by gzip; decompress it first"),
    (0, b"bzh", "is compressed by bzip2; decompress it first"),
    (0, b"\xfd7zxz", "is compressed by xz; decompress it first"),
    (0, b"\x28\xb5\x2f\xfd", "is compressed by zstd; decompress it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it first"),
    (0, b"rar!", "is a RAR archive; unpack it first"),
    (0, b"pk\x05\x06", "is an empty zip archive"),
    (0, b"gguf", "is a GGUF file, a format for language models"),
    (4, b"tfl3", "is a TensorFlow Lite file, which holds a program without parameter names"),
)
ONNX = "is an ONNX file, which holds a program; save the `state_dict()` of the PyTorch model"
DEEPSPEED = (
    "is a DeepSpeed folder: pass `global_step.../mp_rank_00_model_states.pt` in it; if ZeRO-3 "
    "split the weights, its `zero_to_fp32.py` merges them into one file"
)
MSGPACK = (
    "seems to be a msgpack file, as Flax writes; read it with `flax.serialization."
    "msgpack_restore` and pass the mapping of names to arrays"
)


def refuse_file(data: object, path: Path) -> CheckpointError:
    """The error for a file in an unknown format.

    Args:
        data: the memory-mapped file, of which only the first bytes are read.
        path: its path, whose suffix tells formats without a signature.
    """
    start = data[:512]  # type: ignore[index]
    lower = start.lower()
    text = lower.removeprefix(b"\xef\xbb\xbf").lstrip()
    for position, signature, sentence in STRANGERS:
        if signature in (lower[position:][: len(signature)], text[position:][: len(signature)]):
            return CheckpointError(sentence)
    if path.suffix == ".index" or ".data-00000-of-" in path.name:
        return CheckpointError(TENSORFLOW)
    if path.suffix == ".onnx" or (
        start[:1] == b"\x08" and start[2:3] in b"\x12\x1a" and len(start) > 3
    ):
        return CheckpointError(ONNX)
    if path.suffix == ".msgpack" or start[:1] in (b"\xde", b"\xdf"):
        return CheckpointError(MSGPACK)
    return CheckpointError(f"is in an unknown format: it begins with {quoted(start[:16])}")


def refuse_folder(path: Path) -> CheckpointError:
    """The error for a folder without a checkpoint, or with one in an unsupported format."""
    names = sorted(entry.name for entry in path.iterdir())
    if any(name.endswith(".distcp") for name in names):
        return CheckpointError(
            "is a folder of torch.distributed.checkpoint; "
            "`torch.distributed.checkpoint.format_utils.dcp_to_torch_save` converts it to a file"
        )
    if any(re.fullmatch(r"global_step\d+|latest|zero_to_fp32\.py", name) for name in names):
        return CheckpointError(DEEPSPEED)
    if "saved_model.pb" in names or any(name.endswith(".index") for name in names):
        return CheckpointError(TENSORFLOW.replace("is a part of", "holds"))
    shown = ", ".join(quoted(name, 40) for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return CheckpointError(
        f"is a folder that Orbax did not write and that contains no checkpoint; it holds "
        f"{shown or 'nothing'}{more}"
    )
