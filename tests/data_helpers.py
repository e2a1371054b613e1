"""Synthetic data sets in files, and a small HTTP server that misbehaves on demand."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from dslbench.data import entries
from dslbench.data.interactions import digest, pairs_to_csr

N_USERS, N_ITEMS = 30, 25
SHAPE = (N_USERS, N_ITEMS)


def random_lists(seed: int = 0, n_users: int = N_USERS, n_items: int = N_ITEMS) -> list[list[int]]:
    """Items of each user: 6 to 15 distinct ones."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(6, 16, n_users)
    return [rng.permutation(n_items)[:size].tolist() for size in sizes]


def adjacency(lists: list[list[int]], shuffle: bool = False) -> bytes:
    """Text of adjacency lists; `shuffle` writes the items of each line the other way round."""
    lines = [
        " ".join(map(str, [user, *(items[::-1] if shuffle else items)]))
        for user, items in enumerate(lists)
    ]
    return ("\n".join(lines) + "\n").encode()


def train_and_test(seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    lists = random_lists(seed)
    return [items[2:] for items in lists], [items[:2] for items in lists]


def lists_digest(lists: list[list[int]]) -> str:
    users = np.repeat(np.arange(len(lists)), [len(items) for items in lists])
    return digest(pairs_to_csr(users, np.concatenate(lists).astype(int), SHAPE))


def entry_text(name: str, urls: dict[str, list[str]] | None = None, seed: int = 0) -> str:
    """TOML of an adjacency data set as `train_and_test` makes it."""
    train, test = train_and_test(seed)
    text = (
        f'name = "{name}"\ntitle = "test"\nformat = "adjacency"\ndefault_protocol = "given"\n'
        'citation = "Someone, 2020"\nterms = "be kind"\n'
        f"[expect]\nusers = {N_USERS}\nitems = {N_ITEMS}\n"
        f"train = {sum(map(len, train))}\ntest = {sum(map(len, test))}\n"
    )
    for role, lists in (("train", train), ("test", test)):
        content = adjacency(lists)
        text += (
            f'[[files]]\nname = "{role}.txt"\nrole = "{role}"\nbytes = {len(content)}\n'
            f'md5 = "{hashlib.md5(content).hexdigest()}"\ndigest = "{lists_digest(lists)}"\n'
            f"pairs = {sum(map(len, lists))}\nurls = {(urls or {}).get(role, [])}\n"
        )
    return text


def install_catalog(monkeypatch: pytest.MonkeyPatch, folder: Path, *texts: str) -> None:
    """Make a folder of TOML texts the catalog."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number}.toml").write_text(text)
    monkeypatch.setattr(entries, "CATALOG_FOLDER", folder)


def write_dataset(folder: Path, seed: int = 0, shuffle: bool = False) -> Path:
    """Files of the data set of `entry_text`."""
    folder.mkdir(parents=True, exist_ok=True)
    train, test = train_and_test(seed)
    (folder / "train.txt").write_bytes(adjacency(train, shuffle))
    (folder / "test.txt").write_bytes(adjacency(test, shuffle))
    return folder


@dataclass
class Reply:
    """What the server does: status, body, how many bytes it really sends, whether it can resume."""

    body: bytes = b""
    status: int = 200
    cut_at: int | None = None
    ranges: bool = True
    location: str | None = None


@dataclass
class Server:
    """Replies by path, used up one by one; the last one stays."""

    url: str = ""
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def serve(self, path: str, *replies: Reply) -> str:
        self.replies[path] = list(replies)
        return self.url + path


@contextmanager
def http_server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            queue = state.replies.get(self.path, [Reply(status=404)])
            reply = queue.pop(0) if len(queue) > 1 else queue[0]
            body, start = reply.body, 0
            if wanted and reply.ranges and reply.status == 200:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(reply.status)
            if reply.location:
                self.send_header("Location", reply.location)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            end = len(body) if reply.cut_at is None else reply.cut_at
            self.wfile.write(body[start:end])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
