"""`python -m train.pack FOLDER OUT`: a folder of images by class as ArrayRecord files.

Many small files are slow to read in random order over a network; ArrayRecord is made for it. Each
image is stored as it lies in its file, not encoded anew.
"""

import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from train.__main__ import guarded
from train.data.array_record import CLASSES, TEXT, encode_example
from train.data.folder import FolderSource, open_folder

__all__ = ["main", "pack"]

OPTIONS = "group_size:1"  # each record is read by itself


def pack(source: FolderSource, out: Path, part: str, shards: int) -> None:
    """Write `source` as `PART-00000-of-00004.array_record` and so on, record i in shard i % shards.

    Raises: OSError if a file cannot be read or written.
    """
    names = [f"{part}-{shard:05}-of-{shards:05}.array_record" for shard in range(shards)]
    writers = [ArrayRecordWriter(str(out / name), OPTIONS) for name in names]
    for i, (path, label) in enumerate(
        tqdm(zip(source.paths, source.labels, strict=True), part, len(source), disable=None)
    ):
        name = os.fsencode(path)
        features = {"image": Path(path).read_bytes(), "label": label, "file_name": name}
        writers[i % shards].write(encode_example(features))
    for writer in writers:
        writer.close()


@contextmanager
def _filling(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that takes its place when the block ends without an error; after
    one it is gone.
    """
    out = Path(os.path.realpath(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{secrets.token_hex(8)}.part")
    try:
        temporary.mkdir()
        yield temporary
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@click.command(help=(__doc__ or "").partition("\n\n")[2])
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--shards", type=click.IntRange(1), default=1, show_default=True, help="Files for each part."
)
@click.option(
    "--held-out",
    type=click.FloatRange(0, 0.9, min_open=True),
    default=0.1,
    show_default=True,
    help="Share of each class to hold out where there is no `val`.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of that choice.")
def _pack(folder: Path, out: Path, shards: int, held_out: float, seed: int) -> None:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    data = open_folder(folder, held_out, seed)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is there and not empty: nothing was written")
    with _filling(out) as new:
        for part, source in (("train", data.train), ("val", data.held_out)):
            assert isinstance(source, FolderSource)
            pack(source, new, part, shards)
        (new / CLASSES).write_text("".join(f"{name}\n" for name in data.classes), **TEXT)
    click.echo(
        f"{out}: {len(data.train):,} images to learn from and {len(data.held_out):,} held out, of "
        f"{len(data.classes):,} classes, {sum(path.stat().st_size for path in out.iterdir()):,} "
        f"bytes; `python -m train --data {out}` takes it"
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    sys.exit(guarded(_pack, arguments, "pack"))


if __name__ == "__main__":
    main()
