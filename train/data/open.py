"""Which data set `--data` means."""

from pathlib import Path

from train.config import Config
from train.data.source import Dataset

__all__ = ["open_data"]


def open_data(config: Config) -> Dataset:
    """The data set, with as many classes as the run is to have.

    Raises: ValueError in one sentence for data that is missing, empty or has other classes than
        `--num-classes` says.
    """
    data = _open(config)
    if config.num_classes not in (None, len(data.classes)):
        raise ValueError(
            f"--num-classes {config.num_classes} must be {len(data.classes)}, the classes of "
            f"{data.name}"
        )
    for part, source in (("train", data.train), ("held-out", data.held_out)):
        if not len(source):
            raise ValueError(f"--data {data.name} has no {part} images")
    return data


def _open(config: Config) -> Dataset:
    if config.data == "digits":
        from train.data.digits import open_digits

        return open_digits()
    if config.data.startswith("hf:"):
        from train.data.hugging_face import open_hugging_face

        return open_hugging_face(
            config.data[3:],
            held_out=config.held_out,
            seed=config.seed,
            num_classes=config.num_classes,
        )
    root = Path(config.data)
    if root.is_dir() and any(root.glob("*.array_record*")):
        from train.data.array_record import open_array_records

        return open_array_records(root, config.num_classes)
    from train.data.folder import open_folder

    return open_folder(root, config.held_out, config.seed)
