"""Open the data set that `--data` names."""

from pathlib import Path

from train.data.source import Dataset
from train.settings.config import Config
from train.settings.defaults import HELD_OUT

__all__ = ["open_data"]


def open_data(config: Config, *, training: bool = True) -> Dataset:
    """Open the data set that `config` names.

    Args:
        config: the settings.
        training: whether training images are needed; if not, all images of data without a
            validation part are held out by default.

    Raises: ValueError if the data is missing or empty, or if its number of classes is not that of
        `--num-classes`.
    """
    share = config.held_out
    if share is None:
        share = HELD_OUT if training else 1.0
    data = _open(config, share)
    if config.num_classes not in (None, len(data.classes)):
        raise ValueError(
            f"--num-classes {config.num_classes} must be {len(data.classes)}, the number of "
            f"classes of {data.name}"
        )
    parts = {"training": data.train, "held-out": data.held_out}
    for part, source in parts.items():
        if not len(source) and (training or part == "held-out"):
            raise ValueError(f"--data {data.name} has no {part} images: --held-out is {share:g}")
    return data


def _open(config: Config, held_out: float) -> Dataset:
    if config.data == "digits":
        from train.data.digits import open_digits

        return open_digits()
    if config.data.startswith("hf:"):
        from train.data.hugging_face import open_hugging_face

        return open_hugging_face(
            config.data[3:], held_out=held_out, seed=config.seed, num_classes=config.num_classes
        )
    root = Path(config.data)
    if root.is_dir() and any(root.glob("*.array_record*")):
        from train.data.array_record import open_array_records

        return open_array_records(root, config.num_classes)
    from train.data.folder import open_folder

    return open_folder(root, held_out, config.seed)
