"""Downloads from a URL: checked when they arrive, gone when they fail."""

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import requests

from flaxblocks.weights import WeightEntry, WeightsError, cache_folder, fetch_weights

EntryAt = Callable[..., WeightEntry]
Files = Callable[[], list[Path]]


def test_a_file_is_downloaded_once(
    server: str,
    requested: list[str],
    body: bytes,
    cache: Path,
    left_behind: Files,
    entry_at: EntryAt,
) -> None:
    entry = entry_at(f"{server}/net.pth")
    path = fetch_weights(entry, progress=False)
    assert path == cache / "net.pth"
    assert path.read_bytes() == body
    assert fetch_weights(entry, progress=False) == path
    assert requested == ["GET /net.pth"]
    assert left_behind() == [path]


def test_others_may_read_the_file_as_the_umask_says(server: str, entry_at: EntryAt) -> None:
    umask = os.umask(0o022)
    try:
        path = fetch_weights(entry_at(f"{server}/net.pth"), progress=False)
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_put_there_by_hand_serves(
    nowhere: str, body: bytes, cache: Path, entry_at: EntryAt
) -> None:
    cache.mkdir()
    (cache / "net.pth").write_bytes(body)
    assert fetch_weights(entry_at(f"{nowhere}/net.pth")) == cache / "net.pth"
    hub_only = entry_at(prefix=None, hub_id="somebody/net")
    (cache / hub_only.file_name).write_bytes(b"anything: no hash is published")
    assert fetch_weights(hub_only) == cache / hub_only.file_name


def test_a_file_with_another_hash_is_neither_used_nor_replaced(
    server: str, requested: list[str], digest: str, cache: Path, entry_at: EntryAt
) -> None:
    cache.mkdir()
    path = cache / "net.pth"
    path.write_bytes(b"half a download")
    found = hashlib.sha256(b"half a download").hexdigest()
    with pytest.raises(WeightsError) as caught:
        fetch_weights(entry_at(f"{server}/net.pth"))
    assert str(caught.value) == (
        f"{path} is not the published file "
        f"(its sha256 begins with {found[:8]} instead of {digest[:8]}): delete it"
    )
    assert path.read_bytes() == b"half a download"
    assert requested == []


def test_something_unreadable_under_the_name(nowhere: str, cache: Path, entry_at: EntryAt) -> None:
    (cache / "net.pth").mkdir(parents=True)
    with pytest.raises(WeightsError, match=r"net\.pth cannot be read: Is a directory"):
        fetch_weights(entry_at(f"{nowhere}/net.pth"))


def test_a_download_with_another_hash_is_thrown_away(
    fake_hub: str, requested: list[str], digest: str, left_behind: Files, entry_at: EntryAt
) -> None:
    url = f"{fake_hub}/net.pth"
    with pytest.raises(WeightsError) as caught:
        fetch_weights(entry_at(url, prefix="00000000", hub_id="somebody/net"), progress=False)
    assert str(caught.value) == (
        f"{url} does not serve the published file "
        f"(its sha256 begins with {digest[:8]} instead of 00000000)"
    )
    assert left_behind() == []
    assert requested == ["GET /net.pth"]  # a forged file is no reason to ask elsewhere


@pytest.mark.parametrize(
    ("path", "reason"),
    [("missing.pth", "HTTP 404 Not Found"), ("truncated.pth", "1000 bytes read, 299000 more")],
)
def test_a_failed_download_says_what_to_do(
    server: str, cache: Path, left_behind: Files, entry_at: EntryAt, path: str, reason: str
) -> None:
    url = f"{server}/{path}"
    with pytest.raises(WeightsError, match=reason) as caught:
        fetch_weights(entry_at(url), progress=False)
    assert str(caught.value).count(url) == 2
    assert str(caught.value).endswith(f"put it at {cache / path}")
    assert "\n" not in str(caught.value)
    assert left_behind() == []


def test_no_connection_says_what_to_do(
    nowhere: str, cache: Path, left_behind: Files, entry_at: EntryAt
) -> None:
    url = f"{nowhere}/net.pth"
    with pytest.raises(WeightsError) as caught:
        fetch_weights(entry_at(url), progress=False)
    assert str(caught.value) == (
        f"cannot fetch the weights 'mobilenet_v2.IMAGENET1K_V2': {url} failed (Connection refused);"
        f" download {url} by other means and put it at {cache / 'net.pth'}"
    )
    assert left_behind() == []


def test_an_error_being_handled_by_the_caller_is_not_blamed(
    nowhere: str, entry_at: EntryAt
) -> None:
    try:
        raise FileNotFoundError(errno.ENOENT, "somebody else's trouble")
    except FileNotFoundError:
        with pytest.raises(WeightsError, match=r"failed \(Connection refused\)"):
            fetch_weights(entry_at(f"{nowhere}/net.pth"), progress=False)


def test_an_interrupted_download_leaves_nothing(
    server: str, left_behind: Files, entry_at: EntryAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def interrupt(response: requests.Response, chunk_size: int) -> Iterator[bytes]:
        yield b"the first bytes"
        seen.extend(left_behind())
        raise KeyboardInterrupt

    monkeypatch.setattr(requests.Response, "iter_content", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch_weights(entry_at(f"{server}/net.pth"), progress=False)
    assert [path.name[:9] for path in seen] == [".net.pth."]  # it was there and is gone
    assert left_behind() == []


def test_a_cache_folder_that_cannot_be_made(
    server: str,
    requested: list[str],
    entry_at: EntryAt,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLAXBLOCKS_CACHE", str(tmp_path / "file" / "cache"))
    message = r"cache folder .*file/cache \(Not a directory\).* FLAXBLOCKS_CACHE"
    with pytest.raises(WeightsError, match=message):
        fetch_weights(entry_at(f"{server}/net.pth"), progress=False)
    assert requested == []


def test_a_disk_that_is_full(
    server: str,
    cache: Path,
    left_behind: Files,
    entry_at: EntryAt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(source: str, target: str) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(WeightsError, match=rf"{re.escape(str(cache))} \(No space left on device\)"):
        fetch_weights(entry_at(f"{server}/net.pth"), progress=False)
    assert left_behind() == []


def test_the_progress_bar_goes_to_stderr(
    server: str, entry_at: EntryAt, capfd: pytest.CaptureFixture[str]
) -> None:
    fetch_weights(entry_at(f"{server}/quiet.pth"), progress=False)
    assert capfd.readouterr() == ("", "")
    fetch_weights(entry_at(f"{server}/net.pth"))
    out, err = capfd.readouterr()
    assert out == ""
    assert "100%" in err


def test_where_the_cache_folder_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAXBLOCKS_CACHE", "~/somewhere")
    assert cache_folder() == Path.home() / "somewhere"
    monkeypatch.delenv("FLAXBLOCKS_CACHE")
    assert cache_folder().name == "flaxblocks"
    assert cache_folder().is_absolute()
