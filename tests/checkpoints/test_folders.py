"""Files that are several, folders, and archives packed by other hands."""

import io
import json
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from flaxblocks.checkpoints import hub_folder
from flaxblocks.checkpoints.contents import contents_of
from flaxblocks.checkpoints.read import CheckpointError, read_checkpoint
from tests.checkpoints.checkpoint_samples import (
    cheap_refusal,
    tar_file,
    tar_members,
    zip_file,
)

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3).half()}


def assert_state(found: dict) -> None:
    assert {name: array.tolist() for name, array in found.items()} == {
        name: tensor.tolist() for name, tensor in STATE.items()
    }


# Hub folders.


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_hub_folder(name, tmp_path):
    (save_file if name.endswith("s") else torch.save)(STATE, tmp_path / name)
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    torch.save({"step": 1}, tmp_path / "training_args.bin")
    for source in (tmp_path, tmp_path / name):
        contents = contents_of(source)
        assert contents.name == str(source)
        assert contents.settings == {"architecture": "resnet18"}
        assert_state(dict(contents.state_dicts[0].arrays))


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 10_000, "\xff"])
def test_settings_that_are_none(text, tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text, encoding="latin1")
    assert contents_of(tmp_path).settings is None


def test_settings_beyond_any_use(tmp_path, monkeypatch):
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"x": 1}')
    monkeypatch.setattr(hub_folder, "LARGEST_SETTINGS", 8)
    assert contents_of(tmp_path).settings == {"x": 1}
    monkeypatch.setattr(hub_folder, "LARGEST_SETTINGS", 7)
    assert contents_of(tmp_path).settings is None


def test_settings_beside_a_file_of_another_name(tmp_path):
    save_file(STATE, tmp_path / "mine.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert contents_of(tmp_path / "mine.safetensors").settings is None


def test_the_only_checkpoint_of_a_folder(tmp_path):
    torch.save(STATE, tmp_path / "best.ckpt")
    (tmp_path / "log.txt").write_text("")
    (tmp_path / "more.ckpt").mkdir()
    assert_state(read_checkpoint(tmp_path))
    (tmp_path / "best.ckpt").rename(tmp_path / "best.CKPT")
    assert_state(read_checkpoint(tmp_path))
    (tmp_path / "best.CKPT").rename(tmp_path / "best.ckpt")
    torch.save(STATE, tmp_path / "last.ckpt")
    with pytest.raises(
        CheckpointError, match=r"several checkpoints, 'best.ckpt', 'last.ckpt': name"
    ):
        read_checkpoint(tmp_path)


def test_a_damaged_file_of_a_folder_is_named(tmp_path):
    (tmp_path / "best.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(
        CheckpointError, match=r"holds best.pth, which is a zip archive that is trun"
    ):
        read_checkpoint(tmp_path)


# Shards.


@pytest.fixture
def sharded(tmp_path):
    save_file({"a": STATE["a"]}, tmp_path / "model-1.safetensors")
    save_file({"b": STATE["b"]}, tmp_path / "model-2.safetensors")
    index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    return tmp_path


def index(path, places) -> None:
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": places})
    (path / "model.safetensors.index.json").write_text(text)


def test_shards(sharded):
    (sharded / "config.json").write_text('{"x": 1}')
    for source in (sharded, sharded / "model.safetensors.index.json"):
        assert_state(read_checkpoint(source))
        assert contents_of(source).settings == {"x": 1}


def shards_of_pytorch(path, first: object) -> None:
    torch.save({"a": first}, path / "one.bin")
    torch.save({"b": STATE["b"]}, path / "two.bin")
    text = json.dumps({"weight_map": {"a": "one.bin", "b": "two.bin"}})
    (path / "pytorch_model.bin.index.json").write_text(text)


def test_shards_of_pytorch(tmp_path):
    shards_of_pytorch(tmp_path, STATE["a"])
    assert_state(read_checkpoint(tmp_path))


def test_a_shard_with_something_else_under_the_name(tmp_path):
    shards_of_pytorch(tmp_path, 3)
    with pytest.raises(CheckpointError, match=r"lists 'a' in 'one.bin', which lacks it"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("times", [20, 26])  # of 4 MiB; 64 and 8 times the files' may come of it
def test_shards_expand_as_one_file_may(times, tmp_path):
    shards_of_pytorch(tmp_path, torch.zeros(2**20).expand(times, -1))
    if times == 20:
        assert read_checkpoint(tmp_path)["a"].shape == (20, 2**20)
        return
    with pytest.raises(CheckpointError, match="expands to far more than the file holds"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({"a": "../model-1.safetensors"}, "which is not the name of a file in its folder"),
        ({"a": "/etc/passwd"}, "which is not the name of a file in its folder"),
        ({"a": 3}, "which is not the name of a file in its folder"),
        ({"a": ""}, "which is not the name of a file in its folder"),
        ({"a": ".."}, "which is not the name of a file in its folder"),
        ({"a": "x\0"}, "which is not the name of a file in its folder"),
        (
            {"a": "model-3.safetensors"},
            "lists 'model-3.safetensors', which cannot be read",
        ),
        ({"a": "model-2.safetensors"}, "lists 'a' in 'model-2.safetensors', which lacks it"),
        (
            {"a": "model.safetensors.index.json"},
            "lists 'model.safetensors.index.json', which is JSON",
        ),
        ({}, "a damaged index of shards"),
        ([], "a damaged index of shards"),
        (["model-1.safetensors"], "a damaged index of shards"),
    ],
)
def test_indices_that_lie(places, said, sharded):
    index(sharded, places)
    content = (sharded / "model.safetensors.index.json").read_bytes()
    assert said in cheap_refusal(content, sharded)


def test_a_damaged_shard_is_named(sharded):
    (sharded / "model-2.safetensors").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match=r"lists 'model-2.safetensors', which is a zip archi"):
        read_checkpoint(sharded)


def test_damaged_indices(sharded):
    for text in (
        '{"weight_map"',
        '{"weight_map": ' + "[" * 10_000,
        '{"a": "\xff", "weight_map": {}',
    ):
        assert "a damaged index of shards" in cheap_refusal(text.encode("latin1"), sharded)


# Archives.


def test_an_unpacked_archive(tmp_path):
    torch.save({"model": {**STATE, "none": torch.zeros(0)}}, tmp_path / "f.pth")
    with zipfile.ZipFile(tmp_path / "f.pth") as archive:
        archive.extractall(tmp_path / "out")
    for folder in (tmp_path / "out", tmp_path / "out" / "f"):
        found = read_checkpoint(folder)
        assert found.pop("none").shape == (0,)
        assert_state(found)
    (tmp_path / "out" / "again").mkdir()
    assert list(read_checkpoint(tmp_path / "out")) == ["a", "b", "none"]
    (tmp_path / "out" / "again" / "data.pkl").write_bytes(b"\x80\x02}.")
    with pytest.raises(CheckpointError, match="a folder that Orbax did not write"):
        read_checkpoint(tmp_path / "out")
    (tmp_path / "out" / "again" / "data.pkl").unlink()
    (tmp_path / "out" / "f" / "data" / "0").unlink()
    with pytest.raises(CheckpointError, match="the storage '0', which the file does not hold"):
        read_checkpoint(tmp_path / "out")


@pytest.mark.parametrize("root", ["", "again/", "deep/er/"])
def test_an_archive_packed_again(root, tmp_path):
    torch.save(STATE, tmp_path / "f.pth")
    with (
        zipfile.ZipFile(tmp_path / "f.pth") as old,
        zipfile.ZipFile(tmp_path / "new.zip", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in ("__MACOSX/data.pkl", "deep/er/and/deeper/data.pkl", "mydata.pkl"):
            new.writestr(name, b"")
        for name in ("", "data/"):
            new.writestr(root + name, b"") if root + name else None
        for name in old.namelist():
            new.writestr(root + name.removeprefix("f/"), old.read(name))
    assert_state(read_checkpoint(tmp_path / "new.zip"))


def test_a_deflated_record_that_lies(tmp_path):
    content = zip_file(b"\x80\x02}.", {"0": bytes(1000)}, compression=zipfile.ZIP_DEFLATED)
    at = content.index(b"PK\x01\x02")
    for size in (3, 5, 2**20):
        damaged = content[: at + 24] + size.to_bytes(4, "little") + content[at + 28 :]
        assert "a compressed record that is damaged" in cheap_refusal(damaged, tmp_path)


def test_tar(tmp_path):
    (tmp_path / "f.pth").write_bytes(tar_file())
    found = {name: array.tolist() for name, array in read_checkpoint(tmp_path / "f.pth").items()}
    assert found == {"w": [[1, 3], [2, 4]], "n": [6], "part": [2, 3]}
    dotted = tar_members().split(b"\0MEMBER\0")
    dotted[::2] = [b"./" + name for name in dotted[::2]]
    (tmp_path / "f.pth").write_bytes(tar_file(b"\0MEMBER\0".join(dotted)))
    assert list(read_checkpoint(tmp_path / "f.pth")) == list(found)


def test_a_link_in_a_tar_is_no_member(tmp_path):
    out = io.BytesIO(tar_file())
    with tarfile.open(fileobj=out, mode="a") as archive:
        link = tarfile.TarInfo("pickle")
        link.type, link.linkname = tarfile.SYMTYPE, "elsewhere"
        archive.addfile(link)
    (tmp_path / "f").write_bytes(out.getvalue())
    assert list(read_checkpoint(tmp_path / "f")) == ["w", "n", "part"]
