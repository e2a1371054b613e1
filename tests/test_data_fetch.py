from __future__ import annotations

import errno
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from data_helpers import (
    N_USERS,
    Reply,
    Server,
    adjacency,
    entry_text,
    http_server,
    install_catalog,
    train_and_test,
)
from dslbench import data
from dslbench.cli import datasets
from dslbench.data import fetch, library
from dslbench.errors import DataError

TRAIN, TEST = (adjacency(lists) for lists in train_and_test())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetch, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(fetch, "TIMEOUT_SECONDS", (2, 2))
    monkeypatch.setattr(fetch, "CHUNK_BYTES", 5)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http_server() as running:
        running.serve("/train", Reply(TRAIN))
        running.serve("/test", Reply(TEST))
        yield running


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: Server) -> Server:
    """A data set with two mirrors for its train file: /train, then /mirror."""
    urls = {
        "train": [server.url + "/train", server.url + "/mirror"],
        "test": [server.url + "/test"],
    }
    install_catalog(monkeypatch, tmp_path / "catalog", entry_text("small", urls))
    return server


def get(*, force: bool = False) -> None:
    datasets.download(["small"], False, None, False, force)


def partial_files(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "data" / ".partial").glob("*"))


def test_good_file(catalog: Server, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    get()
    assert "small: downloaded, verified" in capsys.readouterr().out
    assert data.load("small").n_users == N_USERS
    assert partial_files(own_home) == []
    manifest = library.read_manifest("small")
    assert manifest is not None
    assert manifest.how == "download"
    assert manifest.files[0].origin == catalog.url + "/train"
    requests = len(catalog.requests)
    get()
    assert len(catalog.requests) == requests  # already here
    get(force=True)
    assert len(catalog.requests) > requests


def test_wrong_hash_everywhere(catalog: Server, own_home: Path) -> None:
    catalog.serve("/train", Reply(TRAIN.replace(b" 1 ", b" ", 1)))
    with pytest.raises(DataError) as caught:
        get()
    message = caught.value.message
    assert caught.value.exit_code == 3
    assert "small: train.txt could not be downloaded" in message
    assert "md5 is" in message
    assert "expected" in message
    assert "HTTP 404" in message  # of the mirror
    assert "--from PATH" in (caught.value.hint or "")
    assert library.read_manifest("small") is None
    assert partial_files(own_home) == []


def test_wrong_hash_then_mirror(catalog: Server) -> None:
    catalog.serve("/train", Reply(b"0 1\n"))
    catalog.serve("/mirror", Reply(TRAIN))
    get()
    assert data.load("small").n_users == N_USERS


def test_not_found_then_mirror(catalog: Server) -> None:
    catalog.serve("/train", Reply(b"gone", status=404))
    catalog.serve("/mirror", Reply(TRAIN))
    get()
    assert [path for path, _ in catalog.requests][:2] == ["/train", "/mirror"]  # no retries on 404


def test_server_error_is_retried(catalog: Server) -> None:
    catalog.serve("/train", Reply(b"oops", status=503), Reply(b"", status=500), Reply(TRAIN))
    get()
    assert [path for path, _ in catalog.requests].count("/train") == 3


def test_connection_cut_then_resumed(catalog: Server) -> None:
    half = len(TRAIN) // 2
    catalog.serve("/train", Reply(TRAIN, cut_at=half), Reply(TRAIN))
    get()
    assert catalog.requests[1] == ("/train", f"bytes={half}-")
    assert data.load("small").n_users == N_USERS


def test_connection_cut_and_no_ranges(catalog: Server) -> None:
    catalog.serve("/train", Reply(TRAIN, cut_at=99), Reply(TRAIN, ranges=False))
    get()
    assert data.load("small").n_users == N_USERS


def test_truncated_for_good_then_resumed_by_the_next_command(
    catalog: Server, own_home: Path
) -> None:
    catalog.serve("/train", Reply(TRAIN, cut_at=100, ranges=False))
    with pytest.raises(DataError, match=r"the connection was cut after 100 bytes"):
        get()
    assert library.read_manifest("small") is None
    assert partial_files(own_home) == ["small-train.txt.part"]
    catalog.requests.clear()
    catalog.serve("/train", Reply(TRAIN))
    get()
    assert catalog.requests[0] == ("/train", "bytes=100-")
    assert partial_files(own_home) == []


def test_short_body_that_claims_to_be_whole(catalog: Server) -> None:
    catalog.serve("/train", Reply(TRAIN[:100]))
    with pytest.raises(DataError, match=r"expected \d+ pairs, found \d+"):
        get()


def test_stale_remains_are_thrown_away(catalog: Server, own_home: Path) -> None:
    part = own_home / "data" / ".partial" / "small-train.txt.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"9" * 50)  # of another version
    get()
    assert data.load("small").n_users == N_USERS


def test_longer_remains_than_the_file(catalog: Server, own_home: Path) -> None:
    part = own_home / "data" / ".partial" / "small-train.txt.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(TRAIN + b"0 0\n")
    catalog.serve("/train", Reply(b"", status=416), Reply(TRAIN))
    get()
    assert data.load("small").n_users == N_USERS


def test_endless_body_is_stopped(catalog: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog.serve("/train", Reply(b"0 1\n" * 400_000))
    with pytest.raises(DataError, match="bytes were sent"):
        get()


def test_redirect_off_https_is_refused(catalog: Server) -> None:
    catalog.serve("/train", Reply(status=302, location="http://example.com/train"))
    with pytest.raises(DataError, match="only https"):
        get()


def test_redirect_is_followed(catalog: Server) -> None:
    catalog.serve("/elsewhere", Reply(TRAIN))
    catalog.serve("/train", Reply(status=302, location="/elsewhere"))
    get()
    assert data.load("small").n_users == N_USERS


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: Server) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}/x"
    install_catalog(monkeypatch, tmp_path / "c", entry_text("small", {"train": [dead]}))
    with pytest.raises(DataError, match="connection refused"):
        get()


class FullDisk:
    """A file on a disk that is full after a while."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.room = file, 100

    def write(self, chunk: bytes) -> int:
        if len(chunk) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(chunk)
        return self.file.write(chunk)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_disk_full(catalog: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    original = fetch._PartFile.__init__

    def start(self: Any, file: IO[bytes], *rest: Any) -> None:
        original(self, FullDisk(file), *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(fetch._PartFile, "__init__", start)
    with pytest.raises(DataError, match=r"cannot write .*No space left on device") as caught:
        get()
    assert "DSLBENCH_HOME" in (caught.value.hint or "")
    assert library.read_manifest("small") is None


def test_home_that_cannot_be_written(catalog: Server, own_home: Path) -> None:
    own_home.write_text("a file where the folder should be")
    with pytest.raises(DataError, match="cannot write"):
        get()


def test_failure_keeps_what_was_there(catalog: Server) -> None:
    get()
    before = {p.name: p.read_bytes() for p in library.folder("small").iterdir()}
    catalog.serve("/train", Reply(b"0 1\n"))
    with pytest.raises(DataError):
        get(force=True)
    assert {p.name: p.read_bytes() for p in library.folder("small").iterdir()} == before


def test_interrupt_keeps_the_partial(
    catalog: Server, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Any, chunk: bytes) -> int:
        self.file.write(chunk)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch._PartFile, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            get()
    assert library.stored_names() == []
    assert partial_files(own_home) == ["small-train.txt.part"]
    assert [p.name for p in (own_home / "data").iterdir()] == [".partial"]
    get()
    assert ("/train", "bytes=5-") in catalog.requests


def test_archive_on_a_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: Server
) -> None:
    box = io.BytesIO()
    with tarfile.open(fileobj=box, mode="w:gz") as tar:
        for name, content in (("d/train.txt", TRAIN), ("d/test.txt", TEST)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    url = server.serve("/all.tar.gz", Reply(box.getvalue()))
    text = entry_text("small")
    for role in ("train", "test"):
        archive = f'[[files.archives]]\nurl = "{url}"\nmember = "d/{role}.txt"\n'
        head, mark, tail = text.partition(f'name = "{role}.txt"')
        body, _, rest = tail.partition("urls = []\n")
        text = head + mark + body + archive + rest
    install_catalog(monkeypatch, tmp_path / "c", text)
    get()
    assert data.load("small").n_users == N_USERS
    assert [path for path, _ in server.requests].count("/all.tar.gz") == 1  # fetched once for both


def test_optional_file_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    server: Server,
    capsys: pytest.CaptureFixture[str],
) -> None:
    urls = {"train": [server.url + "/train"], "test": [server.url + "/test"]}
    extra = (
        '[[files]]\nname = "user_list.txt"\nrole = "users"\noptional = true\nmd5 = "0"\n'
        f'urls = ["{server.url}/none"]\n'
    )
    install_catalog(monkeypatch, tmp_path / "c", entry_text("small", urls) + extra)
    get()
    assert "warning: small: user_list.txt could not be downloaded" in capsys.readouterr().err
    assert data.load("small").n_users == N_USERS
