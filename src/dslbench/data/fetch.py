"""Download over HTTPS: mirrors, retries with back-off, resume of what was cut off.

A partial download waits in `data/.partial` and goes on where it stopped, from any mirror: the
hashes decide at the end whether the whole is right.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

from dslbench import home
from dslbench.data.entries import Archive, DatasetEntry, FileSpec, _checked_url
from dslbench.data.verify import compare, hash_file
from dslbench.errors import DataError

ATTEMPTS = 4
BACKOFF_SECONDS = 0.5
TIMEOUT_SECONDS = (10, 30)
MAX_BYTES = 4 << 30  # of what nothing is known
BYTES_PER_PAIR = 64  # two ids, a rating, a time, separators
CHUNK_BYTES = 1 << 14

Check = Callable[[Path, str, Sequence[str]], None]  # (file, URL, checks its archive passed)
Advance = Callable[[int, int | None], None]  # (bytes there so far, bytes in all where known)


class _NextMirror(Exception):
    """This mirror will not do; the message says why."""


@dataclass(frozen=True)
class _Source:
    url: str
    archive: Archive | None

    @property
    def label(self) -> str:
        return urlsplit(self.url).netloc


def fetch(
    entry: DatasetEntry,
    spec: FileSpec,
    target: Path,
    check: Check,
    advance: Advance = lambda done, total: None,
) -> str:
    """Download one file to `target` from the first mirror that has it right; returns its URL.

    `check(path, url, checks)` raises DataError for a file that is not the right one. Raises DataError when
    no mirror has it, saying why for each, or when it cannot be written.
    """
    sources = [_Source(url, None) for url in spec.urls]
    sources += [_Source(archive.url, archive) for archive in spec.archives]
    problems: list[str] = []
    for source in sources:
        try:
            _fetch_from(entry, spec, source, target, check, advance)
            return source.url
        except _NextMirror as problem:
            problems.append(f"{source.label}: {problem}")
    for source in sources:
        part = partial_path(entry, source.archive or spec)
        if part.is_file() and not part.stat().st_size:
            part.unlink()
    raise DataError(
        f"{entry.store_name}: {spec.name} could not be downloaded: "
        + ("; ".join(problems) or "no address is known for it"),
        hint=f"dslbench download {entry.name} --from PATH  (a folder, file or archive at hand)",
    )


def _fetch_from(
    entry: DatasetEntry,
    spec: FileSpec,
    source: _Source,
    target: Path,
    check: Check,
    advance: Advance,
) -> None:
    what = source.archive or spec
    part = partial_path(entry, what)
    whole = part.with_suffix(".whole")  # an archive that other files come from too
    while True:
        resumed = whole.is_file() or _download(source.url, part, what, advance)
        try:
            vouched: list[str] = []
            if source.archive is None:
                _copy(part, target)
            else:
                if not whole.is_file():
                    part.replace(whole)
                vouched = archive_checks(source.archive, whole)
                _unpack(entry, spec, source.archive, whole, target)
            check(target, source.url, vouched)
        except _Unwritable:
            raise
        except DataError as error:
            for path in (target, part, whole):
                path.unlink(missing_ok=True)
            if resumed:  # what was there before may have been another version: once more, afresh
                continue
            raise _NextMirror(error.message) from None
        part.unlink(missing_ok=True)
        return


def most_bytes(entry: DatasetEntry, spec: FileSpec) -> int:
    """Bytes that a published file may have: a few times what the catalog says of it, or of its pairs."""
    expect = entry.expect
    pairs = spec.pairs or expect.interactions or expect.train
    if spec.bytes is None and pairs is None:
        return MAX_BYTES
    return min(MAX_BYTES, _room(spec.bytes or (pairs or 0) * BYTES_PER_PAIR))


def _room(expected: int) -> int:
    """Another copy may be larger than the published one: other line ends, more columns."""
    return 4 * expected + (1 << 20)


def partial_path(entry: DatasetEntry, what: FileSpec | Archive) -> Path:
    """Where a download in progress is kept."""
    if isinstance(what, FileSpec):
        return home.data_dir() / ".partial" / f"{entry.store_name}-{what.name}.part"
    name = hashlib.sha256(what.url.encode()).hexdigest()[:12]
    return home.data_dir() / ".partial" / f"{entry.store_name}-{name}.part"


def clear_partial(entry: DatasetEntry) -> None:
    """Remove archives and remains of downloads of a data set that is now complete."""
    for part in (home.data_dir() / ".partial").glob(f"{entry.store_name}-*.*"):
        part.unlink(missing_ok=True)


def _copy(part: Path, target: Path) -> None:
    try:
        shutil.copyfile(part, target)
    except OSError as error:
        raise _Unwritable(target, error) from None


def archive_checks(archive: Archive, path: Path) -> list[str]:
    """Checks an archive passes; DataError where it fails one."""
    passed, failed = compare(archive, hash_file(path))
    if failed:
        raise DataError(f"{Path(urlsplit(archive.url).path).name}: {failed[0]}")
    return [f"{label} of the archive" for label in passed]


def _unpack(
    entry: DatasetEntry, spec: FileSpec, archive: Archive, whole: Path, target: Path
) -> None:
    from dslbench.data.archives import extract

    try:
        found = extract(
            whole, {spec.name: (archive.member,)}, target.parent, prefer=entry.name,
            most={spec.name: most_bytes(entry, spec)},
        )  # fmt: skip
    except OSError as error:
        raise _Unwritable(target, error) from None
    if not found:
        raise DataError(f"the archive has no {archive.member}")


def _download(url: str, part: Path, what: FileSpec | Archive, advance: Advance) -> bool:
    """Complete `part` from `url`; whether it began with bytes of an earlier attempt."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.is_file() and part.stat().st_size > 0
    except OSError as error:
        raise _Unwritable(part, error) from None
    if resumed and part.stat().st_size == what.bytes:
        return True
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
        try:
            _request(url, part, what.bytes, advance)
            return resumed
        except _NextMirror:
            raise
        except _Retry as retry:
            problem = str(retry)
    raise _NextMirror(problem)


class _Retry(Exception):
    """A problem that may pass."""


class _PartFile:
    """The file written to: counts, bounds, and tells disk errors from network ones."""

    def __init__(self, file: IO[bytes], path: Path, total: int | None, advance: Advance) -> None:
        self.file, self.path, self.total, self.advance = file, path, total, advance
        self.limit = MAX_BYTES if total is None else _room(total)
        self.done = file.tell()

    def write(self, chunk: bytes) -> int:
        if self.done + len(chunk) > self.limit:
            raise _NextMirror(f"more than {self.limit:,} bytes were sent")
        try:
            self.file.write(chunk)
        except OSError as error:
            raise _Unwritable(self.path, error) from None
        self.done += len(chunk)
        self.advance(self.done, self.total)
        return len(chunk)

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            raise _Unwritable(self.path, error) from None

    def restart(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.done = 0


def _request(url: str, part: Path, expected: int | None, advance: Advance) -> None:
    from pooch import HTTPDownloader

    try:
        if part.exists() and not part.is_file():
            raise OSError(errno.EINVAL, "not a plain file")  # a pipe would be waited for
        file = part.open("ab")
    except OSError as error:
        raise _Unwritable(part, error) from None
    with file:
        out = _PartFile(file, part, expected, advance)
        offset = out.done

        def on_response(response: Any, *_args: Any, **_kwargs: Any) -> None:
            if response.is_redirect:
                onward = urljoin(response.url, response.headers["location"])
                try:
                    _checked_url(onward)
                except ValueError as error:
                    raise _NextMirror(str(error)) from None
                return
            if not response.ok:
                if response.status_code == 416:  # more is there than the server has
                    out.restart()
                return
            start = response.headers.get("content-range", "").partition("-")[0]
            if response.status_code != 206 or start != f"bytes {offset}":
                out.restart()  # the server sends the whole file
            length = response.headers.get("content-length")
            if out.total is None and length and length.isdigit():
                out.total = out.done + int(length)

        headers = {"Accept-Encoding": "identity"}  # bytes as stored: ranges and sizes count
        if offset:
            headers["Range"] = f"bytes={offset}-"
        downloader = HTTPDownloader(
            chunk_size=CHUNK_BYTES,
            headers=headers,
            hooks={"response": on_response},
            timeout=TIMEOUT_SECONDS,
        )
        try:
            downloader(url, out, None)
        except OSError as error:  # all of requests' errors are
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status is None:
                after = f" after {out.done:,} bytes" if out.done else ""
                raise _Retry(_network_problem(error) + after) from None
            if status in (408, 416, 429) or status >= 500:
                raise _Retry(f"HTTP {status}") from None
            raise _NextMirror(f"HTTP {status}") from None


def _network_problem(error: OSError) -> str:
    text = str(error)
    for sign, meaning in (
        ("NameResolution", "the host name cannot be resolved"),
        ("getaddrinfo", "the host name cannot be resolved"),
        ("imed out", "timed out"),
        ("refused", "connection refused"),
        ("IncompleteRead", "the connection was cut"),
        ("ertificate", "its certificate cannot be verified"),
    ):
        if sign in text:
            return meaning
    return f"connection failed ({type(error).__name__})"


class _Unwritable(DataError):
    """The disk, not the network, is the problem: no mirror will help."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"cannot write {path.name} in {path.parent}: {error.strerror or error}",
            hint="free some space there, or set DSLBENCH_HOME to another folder",
        )
