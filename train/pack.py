"""The command `python -m train.pack FOLDER OUT`.

Pack FOLDER, with one subfolder of images per class, into ArrayRecord files in OUT.

Many small files are slow to read in random order over a network; ArrayRecord files are fast. The
bytes of each image file are stored unchanged, not re-encoded.
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

OPTIONS = "group_size:1"  # each record can be read alone


def pack(source: FolderSource, out: Path, part: str, shards: int) -> None:
    """Write `source` as `PART-00000-of-00004.array_record` etc., with record i in shard i % shards.

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
    """A new temporary folder that becomes `out` when the block ends, or is removed if it raises."""
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
    "--shards",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of files for each part, `train` and `val`.",
)
@click.option(
    "--held-out",
    type=click.FloatRange(0, 0.9, min_open=True),
    default=0.1,
    show_default=True,
    help="Fraction of each class to hold out if FOLDER has no `val`.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the choice of held-out images."
)
def _pack(folder: Path, out: Path, shards: int, held_out: float, seed: int) -> None:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    data = open_folder(folder, held_out, seed)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} exists and is not empty: nothing was written")
    with _filling(out) as new:
        for part, source in (("train", data.train), ("val", data.held_out)):
            assert isinstance(source, FolderSource)
            pack(source, new, part, shards)
        (new / CLASSES).write_text("".join(f"{name}\n" for name in data.classes), **TEXT)
    click.echo(
        f"{out}: {len(data.train):,} training images and {len(data.held_out):,} held-out images of "
        f"{len(data.classes):,} classes, {sum(path.stat().st_size for path in out.iterdir()):,} "
        f"bytes; `python -m train --data {out}` reads it"
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    sys.exit(guarded(_pack, arguments, "pack"))


if __name__ == "__main__":
    main()
