"""What counts as damage of a checkpoint, and what does not: whatever is harmed or fails, what is
there stays to the byte, or is put aside for a reason that is known.
"""

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.train.runs import contents
from train.saving.checkpoints import Checkpoints
from train.saving.damage import Damaged, ListedArrays, NotRestored, alike, sealed

STATE = {"a": jnp.arange(5_000.0), "b": {"x": jnp.ones(3), "y": jnp.ones((3, 4), jnp.int32)}}


def abstract(state: Any) -> Any:
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state
    )


def like(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=STATE["a"].sharding)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two checkpoints, 1 and 2."""
    folder = tmp_path_factory.mktemp("written") / "c"
    checkpoints = Checkpoints(folder, keep=2)
    for step in (1, 2):
        checkpoints.save(step, STATE, {"step": step}, best=None)
    checkpoints.close()
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(written, tmp_path / "run" / "c")
    return tmp_path / "run" / "c"


def newest(folder: Path, state: Any = STATE) -> tuple[Any, dict[str, Any]] | None:
    """What a run would go on from."""
    checkpoints = Checkpoints(folder, keep=2)
    try:
        return checkpoints.newest_whole(abstract(state), lambda _: None, lambda _: None)
    finally:
        checkpoints.close()


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def numbered(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def wrapped(error: Exception) -> Exception:
    """As Orbax raises what TensorStore says of one array."""
    outer = Exception("Encountered error while reading array index: (slice(0, 3, 1),)")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (numbered(errno.ESTALE), "Stale file handle"),
        (numbered(errno.EIO), "Input/output error"),
        (numbered(errno.EACCES), "Permission denied"),
        (numbered(errno.ENOSPC), "No space left on device"),
        (numbered(errno.ETIMEDOUT), "Connection timed out"),
        (numbered(errno.ENOENT), "No such file or directory"),
        (MemoryError(), "there is not enough memory"),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory"), "ValueError: RESOURCE_EXHAUSTED: Out"),
        (wrapped(ValueError("UNAVAILABLE: Error reading")), "ValueError: UNAVAILABLE: Error"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 8 bytes"), "JaxRuntimeError: RESOURCE"),
        (ValueError('NOT_FOUND: "zarr.json" does not exist'), "ValueError: NOT_FOUND:"),
        (ValueError("DATA_LOSS: of another file"), "ValueError: DATA_LOSS:"),
        (KeyError("zarr_format"), "KeyError: 'zarr_format'"),
        (AttributeError("no attribute 'restore'"), "AttributeError: no attribute"),
    ],
    ids=lambda value: "" if isinstance(value, str) else f"{type(value).__name__} {value}"[:40],
)
def test_what_cannot_be_restored_though_its_files_are_whole_is_no_damage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    before = contents(folder.parent)
    monkeypatch.setattr(ListedArrays, "restore", raising(error))
    with pytest.raises(NotRestored) as raised:
        newest(folder)
    assert str(raised.value).startswith(f"checkpoint {folder}/2 cannot be read: {told}")
    assert str(raised.value).endswith(
        "or move the checkpoint away to resume from the one before it"
    )
    assert "\n" not in str(raised.value)
    assert contents(folder.parent) == before


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES, errno.ETIMEDOUT])
@pytest.mark.parametrize("name", ["notes/metadata", "state/files.json", "state/manifest.ocdbt"])
def test_a_file_that_the_disk_does_not_give_is_no_damage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    """Be it that Orbax says so as of a file that is not there."""
    before = contents(folder.parent)
    opened = Path.open

    def unreadable(path: Path, *given: Any, **named: Any) -> Any:
        if path == folder / "2" / name:
            raise numbered(number)
        return opened(path, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", unreadable)
        patch.setattr(ListedArrays, "restore", raising(ValueError("NOT_FOUND: it")))
        with pytest.raises(NotRestored, match=r"^checkpoint .*/2 cannot be read: ") as raised:
            newest(folder)
    assert os.strerror(number) in str(raised.value)
    assert contents(folder.parent) == before


def test_a_disk_that_is_no_longer_there_is_no_damage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are all missing, as of a checkpoint that was damaged."""
    (folder / "2").rename(folder.parent / "2")
    before = contents(folder.parent)
    monkeypatch.setattr(Checkpoints, "steps", lambda _: [1, 2])
    with pytest.raises(NotRestored, match=r"c/2 cannot be read: No such file or directory"):
        newest(folder)
    assert contents(folder.parent) == before


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        (STATE | {"z": like((3,))}, "['z'] is missing in it and float32[3] here"),
        ({"a": STATE["a"]}, "['b']['x'] is float32[3] in it and missing here"),
        (
            {"A": STATE["a"], "b": STATE["b"]},
            "['A'] is missing in it and float32[5000] here, ['a'] is float32[5000] in it and",
        ),
        (STATE | {"a": like((4_000,))}, "['a'] is float32[5000] in it and float32[4000] here"),
        (STATE | {"a": like((6_000,))}, "['a'] is float32[5000] in it and float32[6000] here"),
        (
            STATE | {"a": like((5_000,), jnp.bfloat16)},
            "['a'] is float32[5000] in it and bfloat16[5000] here",
        ),
        ({"a": {f"{i}": like((2,)) for i in range(4)}}, " here and 4 more; nothing was changed"),
    ],
    ids=["more", "fewer", "renamed", "shorter", "longer", "dtype", "many"],
)
def test_a_state_of_other_arrays_is_no_damage(folder: Path, expected: Any, told: str) -> None:
    before = contents(folder.parent)
    with pytest.raises(NotRestored) as raised:
        newest(folder, expected)
    told = f"checkpoint {folder}/2 holds a state that differs from this program's: "
    assert told in str(raised.value)
    assert told in str(raised.value)
    assert contents(folder.parent) == before


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


HARMS: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "a flipped bit": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "garbage": lambda path: path.write_bytes(b"{" + os.urandom(200)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("harm", HARMS)
def test_any_file_that_is_harmed_is_damage_or_was_not_needed(
    written: Path, tmp_path: Path, harm: str
) -> None:
    files = [path.relative_to(written) for path in (written / "2").rglob("*") if path.is_file()]
    seen = set()
    for number, file in enumerate(files):
        folder = tmp_path / str(number) / "c"
        shutil.copytree(written, folder)
        HARMS[harm](folder / file)
        harmed = contents(folder / "2")
        found = newest(folder)
        assert found is not None
        state, notes = found
        assert all(map(np.array_equal, jax.tree.leaves(state), jax.tree.leaves(STATE)))
        if notes["step"] == 1:
            seen.add("/".join(file.parts[1:]))
            assert contents(folder.parent / "damaged" / "2") == harmed
        else:
            assert contents(folder / "2") == harmed
    assert "notes/metadata" in seen
    assert "state/manifest.ocdbt" in seen
    assert any(name.startswith("state/ocdbt.process_0/d/") for name in seen)


@pytest.mark.parametrize("gone", ["state", "notes", "."])
def test_a_folder_that_is_gone_or_empty_is_damage(folder: Path, gone: str) -> None:
    for path in (folder / "2" / gone).iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert newest(folder)[1]["step"] == 1  # type: ignore[index]
    assert (folder.parent / "damaged" / "2").is_dir()


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"null", b'{"notes": {}}', b"\xff"])
def test_a_list_that_is_harmed_too_is_damage(folder: Path, content: bytes) -> None:
    (folder / "2" / "state" / "manifest.ocdbt").unlink()
    (folder / "2" / "state" / "files.json").write_bytes(content)
    assert newest(folder)[1]["step"] == 1  # type: ignore[index]


@pytest.mark.parametrize("harm", ["none", "a flipped bit", "removed"])
def test_of_an_older_checkpoint_only_what_is_known_is_damage(folder: Path, harm: str) -> None:
    """Without a list of its files, and without shapes."""
    notes = folder / "2" / "notes" / "metadata"
    noted = json.loads(notes.read_bytes())["notes"]
    del noted["shapes"]
    notes.write_text(json.dumps(sealed(noted)))
    (folder / "2" / "state" / "files.json").unlink()
    data = max((folder / "2" / "state").rglob("d/*"), key=lambda path: path.stat().st_size)
    if harm != "none":
        HARMS[harm](data)
    before = contents(folder.parent)
    if harm == "removed":
        with pytest.raises(NotRestored, match="c/2 cannot be read: ValueError: "):
            newest(folder)
        assert contents(folder.parent) == before
    else:
        assert newest(folder)[1]["step"] == 2 - (harm != "none")  # type: ignore[index]


def test_what_one_process_meets_all_raise() -> None:
    """Two threads in the place of two processes: an error goes before damage."""
    met = [
        (None, None),
        (Damaged("torn"), None),
        (Damaged("torn"), numbered(errno.ESTALE)),
        (NotRestored("a sentence"), None),
    ]
    raised = [both_of(pair) for pair in met]
    stale = "it cannot be read: Stale file handle, sadly"
    assert raised == [
        [None, None],
        [(Damaged, "torn")] * 2,
        [(NotRestored, stale)] * 2,
        [(NotRestored, "a sentence")] * 2,
    ]


def both_of(pair: tuple[Exception | None, Exception | None]) -> list[Any]:
    """What `alike` raises in each of two processes, of which each meets its own."""
    meet, given = threading.Barrier(2), {}

    def united(told: dict[str, str]) -> dict[str, str]:
        given[threading.get_ident()] = told
        meet.wait(10)
        return {name: text for each in given.values() for name, text in each.items()}

    def one(error: Exception | None) -> Any:
        try:
            with alike("it cannot be read", ", sadly"):
                if error is not None:
                    raise error
        except (Damaged, NotRestored) as told:
            return type(told), str(told)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr("train.saving.damage.united", united)
        return list(pool.map(one, pair))


def test_other_programs_read_it_with_orbax_alone(written: Path) -> None:
    args = ocp.args.PyTreeRestore(
        item=STATE, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract(STATE))
    )
    with ocp.CheckpointManager(written) as manager:
        restored = manager.restore(2, args=ocp.args.Composite(state=args))
    assert np.array_equal(restored["state"]["a"], STATE["a"])
    noted = json.loads((written / "2" / "_CHECKPOINT_METADATA").read_bytes())["item_handlers"]
    assert all(name.startswith("orbax.") for name in noted.values())
