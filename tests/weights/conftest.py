"""A server on this machine in the place of the web and the hub, and a cache folder for the test."""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

from flaxblocks.weights import WeightEntry, find_weights

BODY = random.Random(0).randbytes(300_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `BODY` under every name of a weight file and keeps a list of what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requested: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        self.answer(BODY[:1000] if "truncated" in self.path else BODY)

    def answer(self, body: bytes) -> None:
        self.server.requested.append(f"{self.command} {self.path}")
        known = self.path == "/" or self.path.endswith((".pth", ".safetensors"))
        self.send_response(200 if known and "missing" not in self.path else 404)
        self.send_header("Content-Length", str(len(BODY)))
        self.send_header("ETag", f'"{DIGEST}"')  # this and the next are the hub's
        self.send_header("X-Repo-Commit", "0123456789" * 4)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, not yet made; the hub's client is offline, whatever a test forgets."""
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("FLAXBLOCKS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def left_behind(cache: Path) -> Callable[[], list[Path]]:
    """The files below the cache folder."""
    return lambda: [path for path in cache.rglob("*") if path.is_file()]


@pytest.fixture
def body() -> bytes:
    """What the server serves."""
    return BODY


@pytest.fixture
def digest() -> str:
    """The sha256 of `body`."""
    return DIGEST


@pytest.fixture
def running() -> Iterator[Server]:
    with Server() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(running: Server) -> str:
    """The server's address."""
    return running.url


@pytest.fixture
def requested(running: Server) -> list[str]:
    """What the server was asked for so far, such as `GET /net.pth`."""
    return running.requested


@pytest.fixture
def nowhere() -> str:
    """An address at which nothing listens: that of a server that has been closed."""
    with Server() as server:
        return server.url


@pytest.fixture
def fake_hub(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server's address, with the hub's client turned to it."""
    template = f"{server}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    return server


@pytest.fixture
def entry_at() -> Callable[..., WeightEntry]:
    """Makes an entry whose file lies at `url`, at `hub_id` or at both, with the right hash."""

    def make(
        url: str | None = None, prefix: str | None = DIGEST[:8], hub_id: str | None = None
    ) -> WeightEntry:
        entry = find_weights("mobilenet_v2", "DEFAULT")
        name = url.rpartition("/")[2] if url else f"{entry.name}.safetensors"
        return replace(entry, url=url, file_name=name, sha256_prefix=prefix, hub_id=hub_id)

    return make
