"""Download a published file once, check its hash, and keep it.

Files are kept in the folder given by the environment variable FLAXBLOCKS_CACHE, else in the user's
cache folder. On machines without a network, a file can be put there by hand, under the name that
the error message gives. A URL whose file has a published hash is tried before the Hugging Face hub,
where the file of a given name may change.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import uuid
from contextlib import suppress
from pathlib import Path

from flaxblocks.weights import hub
from flaxblocks.weights.entry import WeightEntry

__all__ = ["OTHER_FOLDER", "WeightsError", "cache_folder", "fetch_weights"]

_CHUNK_BYTES = 1 << 16
OTHER_FOLDER = "set the environment variable FLAXBLOCKS_CACHE to a writable folder"


class WeightsError(ValueError):
    """Published weights cannot be downloaded, or a file does not have the published hash."""


class _SourceError(Exception):
    """A source did not serve the file; another one may."""


def cache_folder() -> Path:
    """The folder of downloaded files: FLAXBLOCKS_CACHE, else the user's cache folder.

    Returns: An absolute path; the folder may not exist yet.
    """
    chosen = os.environ.get("FLAXBLOCKS_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("flaxblocks", appauthor=False))


def fetch_weights(entry: WeightEntry, *, progress: bool = True) -> Path:
    """The local file of a published set of weights, downloaded if it does not exist yet.

    No file is ever overwritten: a download goes to a temporary file in the same folder, which is
    checked against the published hash and then renamed. If it fails or is interrupted, nothing is
    left behind. (The hub's own cache keeps partial files, in order to resume.)

    Args:
        entry: The weights, from `find_weights`.
        progress: Whether to show a progress bar on stderr.

    Returns: The path of a file whose sha256 begins with `entry.sha256_prefix`, if that is
        published.
    Raises: WeightsError, a ValueError, if no source can be reached (the message says where to put
        the file by hand), the hash does not match, or the cache folder is not writable.
    """
    folder = cache_folder()
    path = folder / entry.file_name
    outer = sys.exception()
    if path.exists():
        return _existing(path, entry.sha256_prefix)
    if entry.hub_id is not None and (cached := hub.cached_on_disk(entry.hub_id, folder)):
        return cached
    sources = [_from_url, _from_hub] if entry.sha256_prefix else [_from_hub, _from_url]
    failures = []
    for source in sources:
        try:
            found = source(entry, path, progress)
        except _SourceError as failure:
            failures.append(f"{failure} failed ({_reason(failure, outer)})")
        else:
            if found is not None:
                return found
    by_hand = entry.url or hub.hub_url(entry.hub_id or "")
    raise WeightsError(
        f"cannot fetch the weights {entry.name!r}: {' and '.join(failures)}; "
        f"download {by_hand} by other means and put it at {path}"
    )


def _existing(path: Path, prefix: str | None) -> Path:
    """`path`, after a check that it is the published file."""
    try:
        problem = _hash_problem(path, prefix)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
    if problem:
        raise WeightsError(f"{path} is not the published file ({problem}): delete it")
    return path


def _from_url(entry: WeightEntry, path: Path, progress: bool) -> Path | None:
    """Download `entry.url` to `path`; None if there is no URL."""
    if entry.url is None:
        return None
    import pooch
    import requests

    outer = sys.exception()
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download = pooch.HTTPDownloader(
            progressbar=progress,
            chunk_size=_CHUNK_BYTES,
            headers={"Accept-Encoding": "identity"},  # the hash is of the uncompressed file
        )
        download(entry.url, str(partial), None)
        if problem := _hash_problem(partial, entry.sha256_prefix):
            raise WeightsError(f"{entry.url} does not serve the published file ({problem})")
        os.replace(partial, path)
    except requests.RequestException as error:  # also an OSError, so it must come first
        raise _SourceError(entry.url) from error
    except OSError as error:
        raise WeightsError(
            f"cannot write {path.name} to the cache folder {path.parent} "
            f"({_reason(error, outer)}): {OTHER_FOLDER}"
        ) from error
    finally:
        with suppress(OSError):  # it was renamed or never created
            partial.unlink()
    return path


def _from_hub(entry: WeightEntry, path: Path, progress: bool) -> Path | None:
    """Download `entry.hub_id` into the hub's cache; None if the hub does not have it."""
    if entry.hub_id is None:
        return None
    try:
        return hub.download(entry.hub_id, path.parent, progress=progress)
    except Exception as error:
        # The client raises its own errors, those of its HTTP library and those of the system.
        raise _SourceError(hub.hub_url(entry.hub_id)) from error


def _hash_problem(path: Path, prefix: str | None) -> str | None:
    """The mismatch of the file's sha256 as text; None if it begins with `prefix`."""
    if prefix is None:
        return None
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found.startswith(prefix):
        return None
    return f"its sha256 begins with {found[: len(prefix)]} instead of {prefix}"


def _reason(error: BaseException, outer: BaseException | None) -> str:
    """The root cause of `error`, in a few words.

    `outer` is the error that the caller was handling, if any, which is in the chain of causes but
    unrelated.
    """
    while True:
        response = getattr(error, "response", None)
        if response is not None:
            status = response.status_code
            return f"HTTP {status} {http.client.responses.get(status, '')}".strip()
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None or cause is outer:
            break
        error = cause
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
