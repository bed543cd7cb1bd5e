"""Images of one colour by class, and data sets of them."""

from dataclasses import replace
from pathlib import Path

from PIL import Image

from train.data.open import open_data
from train.data.source import Dataset
from train.settings.config import Config

__all__ = ["COLOURS", "colours_are_right", "open_", "write_images"]


COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def write_images(folder: Path, colour: tuple[int, int, int], count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (20 + i, 16), colour).save(folder / f"{i}.png")


def open_(path: str | Path, **settings) -> Dataset:
    return open_data(replace(Config(), data=str(path), **settings))


def colours_are_right(data: Dataset) -> bool:
    sources = (data.train, data.held_out)
    examples = [source[i] for source in sources for i in range(len(source))]
    return all(
        image.getpixel((0, 0)) == COLOURS[data.classes[label]] and image.mode == "RGB"
        for image, label in examples
    )
