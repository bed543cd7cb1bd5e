"""Files of the hub, from a server on this machine that answers like it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, utils

from flaxblocks.weights import WeightEntry, WeightsError, fetch_weights

EntryAt = Callable[..., WeightEntry]
Files = Callable[[], list[Path]]


def test_the_hub_serves_what_has_no_url(
    fake_hub: str, requested: list[str], body: bytes, cache: Path, entry_at: EntryAt
) -> None:
    entry = entry_at(prefix=None, hub_id="somebody/net")
    path = fetch_weights(entry, progress=False)
    assert path.read_bytes() == body
    assert path.name == "model.safetensors"
    assert path.is_relative_to(cache / "huggingface")
    before = list(requested)
    assert "GET /somebody/net/resolve/main/model.safetensors" in before
    assert fetch_weights(entry, progress=False) == path
    assert requested == before


@pytest.mark.parametrize("progress", [True, False])
def test_the_progress_bars_are_switched_off_for_the_download_only(
    fake_hub: str, entry_at: EntryAt, monkeypatch: pytest.MonkeyPatch, progress: bool
) -> None:
    shown: list[bool] = []
    original = huggingface_hub.hf_hub_download

    def spy(*args: Any, **kwargs: Any) -> Any:
        shown.append(not utils.are_progress_bars_disabled())
        return original(*args, **kwargs)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", spy)
    fetch_weights(entry_at(prefix=None, hub_id="somebody/net"), progress=progress)
    assert shown == [progress]
    assert not utils.are_progress_bars_disabled()


def test_the_hubs_own_cache_is_used_where_the_user_set_it(
    fake_hub: str,
    left_behind: Files,
    entry_at: EntryAt,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    path = fetch_weights(entry_at(prefix=None, hub_id="somebody/net"), progress=False)
    assert path.is_relative_to(tmp_path / "hub")
    assert left_behind() == []


@pytest.mark.parametrize(
    ("path", "pinned", "first"),
    [
        ("net.pth", True, "GET /net.pth"),
        ("net.pth", False, "HEAD /"),  # no hash pins the URL's content: the hub goes first
        ("missing.pth", True, "GET /missing.pth"),
    ],
)
def test_the_order_of_two_sources(
    fake_hub: str,
    requested: list[str],
    body: bytes,
    digest: str,
    entry_at: EntryAt,
    path: str,
    pinned: bool,
    first: str,
) -> None:
    prefix = digest[:8] if pinned else None
    found = fetch_weights(entry_at(f"{fake_hub}/{path}", prefix, "somebody/net"), progress=False)
    assert found.read_bytes() == body
    assert requested[0] == first
    assert (found.name == "net.pth") == (first == "GET /net.pth")


def test_an_unknown_repository(fake_hub: str, cache: Path, entry_at: EntryAt) -> None:
    entry = entry_at(prefix=None, hub_id="missing/net")
    with pytest.raises(WeightsError, match=r"safetensors failed \(HTTP 404 Not Found\)") as caught:
        fetch_weights(entry, progress=False)
    assert str(caught.value).endswith(f"put it at {cache / entry.file_name}")
    assert "\n" not in str(caught.value)


def out_of_reach(monkeypatch: pytest.MonkeyPatch, nowhere: str) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)


def offline(monkeypatch: pytest.MonkeyPatch, nowhere: str) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def not_installed(monkeypatch: pytest.MonkeyPatch, nowhere: str) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (out_of_reach, "Connection refused"),
        (offline, "HF_HUB_OFFLINE is set and the hub's cache does not hold the file"),
        (not_installed, "it needs huggingface_hub: pip install 'flaxblocks[hub]'"),
    ],
)
def test_no_hub_says_what_to_do(
    nowhere: str,
    cache: Path,
    left_behind: Files,
    entry_at: EntryAt,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[pytest.MonkeyPatch, str], None],
    reason: str,
) -> None:
    trouble(monkeypatch, nowhere)
    url = f"{nowhere}/net.pth"
    hub = "https://huggingface.co/somebody/net/resolve/main/model.safetensors"
    with pytest.raises(WeightsError) as caught:
        fetch_weights(entry_at(url, hub_id="somebody/net"), progress=False)
    assert str(caught.value) == (
        f"cannot fetch the weights 'mobilenet_v2.IMAGENET1K_V2': {url} failed (Connection refused) "
        f"and {hub} failed ({reason}); download {url} by other means and put it at "
        f"{cache / 'net.pth'}"
    )
    assert left_behind() == []
