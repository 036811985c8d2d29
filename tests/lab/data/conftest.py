"""An empty cache, a server on this machine that plays the addresses, and a small data set."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lmcnb.lab import data
from lmcnb.lab.data_registry import DataSet, Source, Split, registry

sys.path.append(str(Path(__file__).parent))
from sample_files import CLASSES, IMAGES, write_idx


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user cache, and no other folder."""
    for name in ("LMCNB_DATA", "LMCNB_OFFLINE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LMCNB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Server:
    """What is published at which path, and what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.address = ""
        self.close: Callable[[], None] = lambda: None

    def source(self, file: str, content: bytes, *before: str) -> Source:
        """`content` as a source at the last of several addresses."""
        self.files["/" + file] = content
        addresses = tuple(f"{self.address}/{path}" for path in (*before, file))
        return Source(file, addresses, sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def server() -> Iterator[Server]:
    site = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            content = site.files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.address = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def close() -> None:
        http.shutdown()
        thread.join()
        http.server_close()

    site.close = close
    yield site
    close()


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[DataSet], DataSet]:
    def add(entry: DataSet) -> DataSet:
        monkeypatch.setitem(registry(), entry.name, entry)
        return entry

    return add


@pytest.fixture
def small(tmp_path: Path, server: Server, register: Callable[[DataSet], DataSet]) -> DataSet:
    """Seven pictures in the form of MNIST; the first address of the images is gone."""
    images = write_idx(tmp_path / "images.gz", IMAGES).read_bytes()
    labels = write_idx(tmp_path / "labels.gz", CLASSES).read_bytes()
    sources = (server.source("images.gz", images, "gone"), server.source("labels.gz", labels))
    split = Split(("images.gz", "labels.gz"), data.digest({"images": IMAGES, "labels": CLASSES}))
    return register(DataSet("small", "t", "l", "o", "idx", {"train": split}, ("small",), sources))
