"""What is no checkpoint of weights is refused in one sentence that says what it is."""

import gzip
import io
import os
import pickle
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch

from flaxblocks.checkpoints.read import CheckpointError, read_checkpoint
from tests.checkpoints.checkpoint_samples import FakeTensor, legacy_file, pickled, zip_file


def npy() -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros(3))
    return out.getvalue()


def tar(*names: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def docx() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", "<xml/>" * 100)
    return out.getvalue()


def empty_zip() -> bytes:
    out = io.BytesIO()
    zipfile.ZipFile(out, "w").close()
    return out.getvalue()


def script() -> bytes:
    records = {"constants.pkl": b"", "code/__torch__.py": b"def forward(): pass"}
    return zip_file(b"", records=records)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
WHOLE = zip_file(pickled({"w": FakeTensor()}))
OTHER_VERSION = legacy_file(b"").replace(pickled(1001), pickled(1002))

FOREIGN = {
    "empty": (b"", "is an empty file"),
    "html": (b"\n <!DOCTYPE html><html><body>404</body></html>", "is a web page"),
    "html with bom": (b"\xef\xbb\xbf<HTML>", "is a web page"),
    "lfs pointer": (LFS, "is a Git LFS pointer"),
    "json": (b'{"error": "not found"}', "is JSON text"),
    "npy": (npy(), "is a NumPy .npy file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file"),
    "tar": (tar("model.pth"), "is a tar archive that PyTorch did not write"),
    "empty members": (tar("storages", "tensors", "pickle"), "its pickle is cut short"),
    "gzip": (gzip.compress(WHOLE), "is compressed by gzip"),
    "docx": (docx(), "without a `data.pkl`"),
    "empty zip": (empty_zip(), "is an empty zip archive"),
    "torchscript": (script(), "is a TorchScript archive"),
    "compressed": (
        zip_file(pickled({}), compression=zipfile.ZIP_BZIP2),
        "has a compressed or encrypted record 'archive/data.pkl'",
    ),
    "byte order": (zip_file(pickled({}), records={"byteorder": b"mixed"}), "byte order b'mixed'"),
    "half a zip": (WHOLE[: len(WHOLE) // 2], "is a zip archive that is truncated or damaged"),
    "plain pickle": (pickle.dumps({"a": 1}), "holds no state dict: it is a dict of 'a' (int)"),
    "other version": (OTHER_VERSION, "of an unknown protocol version"),
    "text": (b"hello, world; this is no checkpoint", "begins with b'hello, world; th'"),
    "short": (b"\x80", "its pickle is cut short"),
    "zeros": (bytes(64), "is in an unknown format"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files(name, tmp_path):
    content, said = FOREIGN[name]
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as raised:
        read_checkpoint(path)
    message = str(raised.value)
    assert said in message
    assert message.startswith(f"{path} ")
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))
    assert raised.value.__cause__ is None


def test_missing_file_directory_and_pipe(tmp_path):
    with pytest.raises(CheckpointError, match=r"no\.pth cannot be read: No such file"):
        read_checkpoint(tmp_path / "no.pth")
    with pytest.raises(
        CheckpointError,
        match=r"is a folder that Orbax .* contains no checkpoint; it holds nothing",
    ):
        read_checkpoint(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="is not a regular file"):
        read_checkpoint(tmp_path / "pipe")
    for name in ("a\0b", "a\ud800"):
        with pytest.raises(CheckpointError, match="is not a valid path"):
            read_checkpoint(name)
    with pytest.raises(CheckpointError, match="File name too long"):
        read_checkpoint("a" * 5000)


def test_the_suffix_is_not_believed(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "w.safetensors")
    assert read_checkpoint(tmp_path / "w.safetensors")["w"] == 1
    assert read_checkpoint(str(tmp_path / "w.safetensors"))["w"] == 1


def test_a_torchscript_archive_is_refused(tmp_path):
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its own format
        torch.jit.save(torch.jit.script(Model()), str(tmp_path / "f"))
    with pytest.raises(CheckpointError, match="is a TorchScript archive"):
        read_checkpoint(tmp_path / "f")


def quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8)


def nested() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.zeros(2, 2).to_sparse(), "holds a sparse tensor"),
        (lambda: torch.eye(2).to_sparse_csr(), "holds a sparse tensor"),
        (lambda: torch.zeros(2, device="meta"), "holds a meta tensor"),
        (lambda: torch.zeros(2, dtype=torch.complex32), "a dtype that NumPy lacks"),
        (lambda: torch.zeros(2, dtype=torch.uint8).view(torch.bits8), "a dtype that NumPy lacks"),
        (quantised, "holds a quantised tensor"),
        (nested, "holds a nested tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # what torch itself says of these kinds
def test_tensors_that_numpy_has_no_form_for(make, said, tmp_path):
    torch.save({"w": make()}, tmp_path / "f")
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint(tmp_path / "f")
