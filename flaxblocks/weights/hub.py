"""Files of the Hugging Face hub, by its own client (the extra `hub`).

The cache is in the folder given by HF_HOME or HF_HUB_CACHE, else in this library's cache folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["cached_on_disk", "download", "hub_url"]

_FILE = "model.safetensors"
_REACH_SECONDS = 10


def hub_url(hub_id: str, endpoint: str = "https://huggingface.co") -> str:
    """The address of the weights in the repository `hub_id`, which also works in a browser."""
    return f"{endpoint}/{hub_id}/resolve/main/{_FILE}"


def cached_on_disk(hub_id: str, cache_folder: Path) -> Path | None:
    """The file, if it is in the hub's cache; the network is not used."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(hub_id, _FILE, cache_dir=_folder(cache_folder))
    return Path(found) if isinstance(found, str) else None


def download(hub_id: str, cache_folder: Path, *, progress: bool) -> Path:
    """Download the file into the hub's cache.

    Raises: any error of the client; ConnectionError at once if the hub cannot be reached or
        HF_HUB_OFFLINE is set (the client itself would retry for 23 s); ImportError without the
        extra `hub`.
    """
    try:
        import huggingface_hub
        from huggingface_hub import constants
    except ImportError:
        raise ImportError("it needs huggingface_hub: pip install 'flaxblocks[hub]'") from None
    import requests

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set and the hub's cache does not hold the file")
    requests.head(constants.ENDPOINT, timeout=_REACH_SECONDS)
    with _progress_bar(progress):
        path = huggingface_hub.hf_hub_download(hub_id, _FILE, cache_dir=_folder(cache_folder))
    return Path(path)


def _folder(cache_folder: Path) -> Path:
    if {"HF_HOME", "HF_HUB_CACHE"} & set(os.environ):
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE)
    return cache_folder / "huggingface"


@contextmanager
def _progress_bar(show: bool) -> Iterator[None]:
    """If not `show`, disable the client's progress bars, in the whole process, within the block."""
    from huggingface_hub import utils

    if show or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
