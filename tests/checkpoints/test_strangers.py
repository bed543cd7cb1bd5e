"""Files and folders that are no checkpoints, refused by what they are."""

import io
import os
import zipfile

import pytest

from flaxblocks.checkpoints.read import CheckpointError, read_checkpoint


def test_a_folder_of_distributed_checkpoint(tmp_path):
    for name in (".metadata", "__0_0.distcp"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="dcp_to_torch_save` converts it to a file"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("names", [("latest", "global_step8"), ("zero_to_fp32.py",)])
def test_a_folder_of_deepspeed(names, tmp_path):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(
        CheckpointError, match=r"pass `global_step\.\.\./mp_rank_00_model_states\.pt`"
    ):
        read_checkpoint(tmp_path)


def records(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("f.pt2", records("f/archive_format", "f/data/w"), "is a torch.export archive"),
        ("f.keras", records("config.json", "model.weights.h5"), "is a Keras archive"),
        (
            "f.zip",
            records("readme", "model.pth"),
            "holds a checkpoint, 'model.pth': unzip it first",
        ),
        ("f.onnx", b"\x08\x08\x12\x07pytorch", "is an ONNX file"),
        ("f.pth", b"\x08\x08\x12\x07pytorch", "is an ONNX file"),
        ("f.tflite", b"\x1c\0\0\0TFL3" + bytes(20), "is a TensorFlow Lite file"),
        ("f.gguf", b"GGUF\3\0\0\0", "is a GGUF file"),
        ("f.ckpt.index", b"\0\0\x1a", "is a part of a TensorFlow checkpoint"),
        ("f.data-00000-of-00001", b"\0\0\x1a", "is a part of a TensorFlow checkpoint"),
        ("f.msgpack", b"\x82\xa6params", "seems to be a msgpack file"),
        ("f.h5", b"\x89HDF\r\n\x1a\n", "is an HDF5 file, as Keras"),
        ("f.bz2", b"BZh91AY", "compressed by bzip2"),
        ("f.xz", b"\xfd7zXZ\0", "compressed by xz"),
        ("f.zst", b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    ],
)
def test_strangers(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as raised:
        read_checkpoint(tmp_path / name)
    assert str(raised.value).startswith(os.fspath(tmp_path / name))
