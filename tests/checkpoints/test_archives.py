"""Archives and headers that lie about what they hold are refused, and cost nothing."""

import json
import struct
import zipfile

import pytest

from flaxblocks.checkpoints import zip_records
from flaxblocks.checkpoints.read import read_checkpoint
from tests.checkpoints.checkpoint_samples import FakeTensor, cheap_refusal, pickled, zip_file


def test_overlapping_records(tmp_path):
    content = bytearray(zip_file(pickled({"w": FakeTensor()}), {"0": bytes(16), "1": bytes(16)}))
    entries = [at for at in range(len(content)) if content[at : at + 4] == b"PK\x01\x02"]
    content[entries[2] + 42 : entries[2] + 46] = content[entries[1] + 42 : entries[1] + 46]
    assert "overlaps another" in cheap_refusal(bytes(content), tmp_path)


def test_two_records_of_one_name(tmp_path):
    content = zip_file(pickled({"w": FakeTensor()}), {"0": bytes(16), "1": bytes(16)})
    content = content.replace(b"archive/data/1", b"archive/data/0")
    assert "two records of the same name" in cheap_refusal(content, tmp_path)


@pytest.mark.parametrize("size", [2**20, 2**32 - 2])
def test_records_larger_than_the_archive(size, tmp_path):
    content = bytearray(zip_file(pickled({"w": FakeTensor()})))
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = struct.pack("<II", size, size)
    assert "lacks the record 'archive/data/0'" in cheap_refusal(bytes(content), tmp_path)


def test_a_directory_larger_than_any_use(monkeypatch, tmp_path):
    content = zip_file(pickled({}), {str(i): b"" for i in range(100)})
    monkeypatch.setattr(zip_records, "LARGEST_DIRECTORY", 1000)
    assert "truncated or damaged" in cheap_refusal(content, tmp_path)


def test_an_encrypted_record(tmp_path):
    content = bytearray(zip_file(pickled({"w": FakeTensor()})))
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    assert "compressed or encrypted" in cheap_refusal(bytes(content), tmp_path)


def test_a_zip_bomb(tmp_path):
    bomb = zip_file(
        pickled({"w": FakeTensor()}), {"0": bytes(2**27)}, compression=zipfile.ZIP_DEFLATED
    )
    assert len(bomb) < 2**18
    assert "expands to far more than the file holds" in cheap_refusal(bomb, tmp_path)


# Safetensors.


def safetensors(header: object, content: bytes = bytes(16), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def entry(**changes: object) -> dict:
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (safetensors({}, b""), "without tensors"),
        (safetensors({"__metadata__": {"format": "pt"}}, b""), "without tensors"),
        (safetensors({"w": entry(shape=[5])}), "is a damaged safetensors file"),
        (safetensors({"w": entry(shape=[-4])}), "is a damaged safetensors file"),
        (safetensors({"w": entry(data_offsets=[0, 32])}), "is a damaged safetensors file"),
        (safetensors({"w": entry(data_offsets=[16, 0])}), "is a damaged safetensors file"),
        (safetensors({"w": entry()}, bytes(8)), "is a damaged safetensors file"),
        (safetensors({"w": entry()}, bytes(24)), "is a damaged safetensors file"),
        (safetensors({"w": entry(dtype="F99")}), "is a damaged safetensors file"),
        (safetensors({"w": entry(dtype="F4", shape=[32])}), "dtype F4 unknown to NumPy"),
        (safetensors({"w": ["F32", [4], [0, 16]]}), "lacks dtype, shape or offsets of tensor 'w'"),
        (safetensors({"w": entry(shape=[4] + [1] * 64)}), "at most 64"),
        (safetensors({"w": entry(shape=[0, 2**63], data_offsets=[0, 0])}, b""), "beyond 64 bits"),
        (safetensors({"w": entry(shape=[0, 2**62], data_offsets=[0, 0])}, b""), "too large"),
        (safetensors(b'{"w":' * 10_000), "header that is damaged"),
        (safetensors(b'{"w": nonsense}'), "header that is damaged"),
        (safetensors(b'{"w": ' + b"9" * 5000 + b"}"), "header that is damaged"),
        (safetensors(b'{"\xff": 1}'), "header that is damaged"),
        (safetensors({"w": entry()}, length=1000), "is truncated: its safetensors header"),
    ],
)
def test_safetensors_headers(content, said, tmp_path):
    assert said in cheap_refusal(content, tmp_path)


def test_a_safetensors_header_larger_than_any_use(monkeypatch, tmp_path):
    monkeypatch.setattr("flaxblocks.checkpoints.safetensors_file.LARGEST_HEADER", 10)
    assert "which is too long" in cheap_refusal(safetensors({"w": entry()}), tmp_path)


def test_a_safetensors_length_that_looks_like_another_format(tmp_path):
    """The first byte of the length may be 0x80, with which a pickle begins."""
    text = json.dumps({"w": entry()}).encode()
    text += b" " * (0x80 - len(text) % 0x100)
    (tmp_path / "f").write_bytes(safetensors(text))
    assert (tmp_path / "f").read_bytes()[:1] == b"\x80"
    assert read_checkpoint(tmp_path / "f")["w"].shape == (4,)
