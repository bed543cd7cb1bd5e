"""Zip archives: those of torch, and others that only look like a checkpoint."""

from collections.abc import Mapping

from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.opened import Opened, Saved
from flaxblocks.checkpoints.torch_zip import read_records, root_of
from flaxblocks.checkpoints.window import Place
from flaxblocks.checkpoints.zip_records import records_of

__all__ = ["read_zip"]

CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin", ".tar", ".safetensors", ".pkl", ".pyth")


def read_zip(opened: Opened) -> Saved:
    """Read a zip archive that torch wrote.

    Raises: CheckpointError if the archive is damaged or another program wrote it.
    """
    records = records_of(opened.file, opened.data)
    root = root_of(records)
    if root is None:
        raise CheckpointError(_what_else(records))
    return Saved(*read_records(records, root, len(opened.data)))


def _what_else(records: Mapping[str, Place]) -> str:
    """What the archive is instead, and what to do."""
    names = list(records)
    if any(name.endswith(("archive_format", "models/model.json")) for name in names):
        return "is a torch.export archive, which holds a program; save the model's `state_dict()`"
    if any(name.endswith("model.weights.h5") for name in names):
        return "is a Keras archive, not a PyTorch checkpoint"
    inner = next((name for name in names if name.lower().endswith(CHECKPOINTS)), None)
    if inner is not None:
        return f"is a zip archive that holds a checkpoint, {quoted(inner, 60)}: unzip it first"
    shown = ", ".join(quoted(name, 40) for name in names[:3])
    return (
        "is a zip archive without a `data.pkl`, so not a PyTorch checkpoint; "
        f"it holds {shown or 'nothing'}"
    )
