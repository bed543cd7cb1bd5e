"""ArrayRecord files of `tf.train.Example`s, as TensorFlow Datasets writes them.

An Example has the features `image`, an encoded image file, and `label`, an integer. Each file name
contains the name of its part as a word: `train`, `val`, `validation` or `test`, as in
`cifar10-train.array_record-00000-of-00001`. `label.labels.txt` in the same folder names the
classes, one per line. `python -m train.pack` makes such a folder from image files.
"""

import io
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import grain
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image

from train.data.source import HELD_OUT, TRAIN, Dataset, Unreadable, check_label, open_image

__all__ = [
    "CLASSES",
    "TEXT",
    "ArrayRecordSource",
    "decode_example",
    "encode_example",
    "open_array_records",
]

CLASSES = "label.labels.txt"
PATTERN = "*.array_record*"
TEXT: Any = {"encoding": "utf-8", "errors": "surrogateescape"}  # keeps any file name intact


class ArrayRecordSource:
    """Images and labels in ArrayRecord files."""

    def __init__(self, paths: Sequence[Path], num_classes: int):
        """Open the files. Raises: ValueError if one is not an ArrayRecord."""
        self.paths = [str(path) for path in paths]
        self.num_classes = num_classes
        self.files = [_opened(path) for path in self.paths]
        self.ends = list(accumulate(len(file) for file in self.files))

    def __len__(self) -> int:
        return self.ends[-1]

    def _place(self, index: int) -> tuple[int, int]:
        """The number of the file, and the number of the record in it."""
        file = bisect_right(self.ends, index)
        return file, index - (self.ends[file - 1] if file else 0)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        file, record = self._place(index)
        try:
            features = decode_example(self.files[file][record])
            encoded, label = features["image"], features["label"]
        except Exception as error:  # from the reader, or if the record is not an Example
            raise Unreadable(f"not an Example with `image` and `label` ({error})") from error
        check_label(label, self.num_classes, self.name(index))
        return open_image(io.BytesIO(encoded)), label

    def name(self, index: int) -> str:
        """A name such as `FOLDER/train-00000-of-00002.array_record, record 12`."""
        file, record = self._place(index)
        return f"{self.paths[file]}, record {record}"

    def identity(self) -> Iterator[str]:
        """Each file's name with its number of records."""
        for path, file in zip(self.paths, self.files, strict=True):
            yield f"{Path(path).name} {len(file)}"


def _opened(path: str) -> Any:
    try:
        file: Any = grain.sources.ArrayRecordDataSource(path)
        len(file)
    except Exception as error:  # from a reader in C++
        raise ValueError(f"{path} is not an ArrayRecord file: {error}") from error
    return file


def open_array_records(root: Path, num_classes: int | None) -> Dataset:
    """The data set of a folder of ArrayRecord files.

    Args:
        root: the folder.
        num_classes: number of classes, used if no file names them.

    Raises: ValueError if a part is missing or the number of classes is unknown.
    """
    files = _files_by_part(root)
    train = files.get(TRAIN, [])
    held_out = next((files[part] for part in HELD_OUT if part in files), [])
    for part, paths in ((TRAIN, train), (HELD_OUT[0], held_out)):
        if not paths:
            raise ValueError(f"--data {root} has no ArrayRecord file with {part!r} in its name")
    names = root / CLASSES
    if names.is_file():
        classes = names.read_text(**TEXT).split("\n")
        classes = classes[:-1] if classes[-1] == "" else classes
    elif num_classes is not None:
        classes = [str(i) for i in range(num_classes)]
    else:
        raise ValueError(f"--data {root} has no {CLASSES}: --num-classes must be given")
    return Dataset(
        name=str(root),
        train=ArrayRecordSource(train, len(classes)),
        held_out=ArrayRecordSource(held_out, len(classes)),
        classes=classes,
    )


def _files_by_part(root: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in sorted(root.glob(PATTERN)):
        part = _part(path)
        if part is not None:
            files.setdefault(part, []).append(path)
    return files


def _part(path: Path) -> str | None:
    """The part that a file name contains: `train` for `NAME-train.array_record-00000-of-00002` and
    `train-00000-of-00002.array_record`; None if there is none.

    Raises: ValueError if the name contains several parts and the last word before the suffix is not
        one of them.
    """
    words = re.split("[-_.]", path.name.partition(".array_record")[0])
    parts = [word for word in words if word in (TRAIN, *HELD_OUT)]
    if len(set(parts)) > 1 and words[-1] not in parts:
        raise ValueError(f"{path} has {' and '.join(map(repr, parts))} in its name: which is it?")
    return parts[-1] if parts else None


def encode_example(features: Mapping[str, bytes | int]) -> bytes:
    """Serialise a `tf.train.Example` with these features."""
    example = _example_class()()
    for name, value in features.items():
        feature = example.features.feature[name]
        kind = feature.bytes_list if isinstance(value, bytes) else feature.int64_list
        kind.value.append(value)
    return example.SerializeToString(deterministic=True)


def decode_example(data: bytes) -> dict[str, Any]:
    """The first value of each feature in a serialised `tf.train.Example`."""
    example = _example_class().FromString(data)
    features = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind is not None:
            values = getattr(feature, kind).value
            features[name] = values[0] if values else None
    return features


@cache
def _example_class() -> Any:
    """The message class, as defined in tensorflow/core/example, without TensorFlow."""
    file = descriptor_pb2.FileDescriptorProto(
        name="train/example.proto", package="flaxblocks.example", syntax="proto3"
    )
    field = descriptor_pb2.FieldDescriptorProto

    def message(parent: Any, name: str) -> Any:
        return parent.add(name=name)

    def add(owner: Any, name: str, number: int, kind: int, **rest: Any) -> None:
        label = rest.pop("label", field.LABEL_OPTIONAL)
        owner.field.add(name=name, number=number, type=kind, label=label, **rest)

    repeated = field.LABEL_REPEATED
    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        add(message(file.message_type, name), "value", 1, kind, label=repeated)
    feature = message(file.message_type, "Feature")
    feature.oneof_decl.add(name="kind")
    lists = (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List"))
    for number, (name, kind) in enumerate(lists, 1):
        of = f".flaxblocks.example.{kind}"
        add(feature, name, number, field.TYPE_MESSAGE, type_name=of, oneof_index=0)
    features = message(file.message_type, "Features")
    entry = message(features.nested_type, "FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, type_name=".flaxblocks.example.Feature")
    of = ".flaxblocks.example.Features.FeatureEntry"
    add(features, "feature", 1, field.TYPE_MESSAGE, type_name=of, label=repeated)
    example = message(file.message_type, "Example")
    add(example, "features", 1, field.TYPE_MESSAGE, type_name=".flaxblocks.example.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("flaxblocks.example.Example")
    return message_factory.GetMessageClass(found)
