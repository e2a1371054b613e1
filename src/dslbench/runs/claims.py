"""Who makes which run: a file `runs/.claims/<id>` for each run in the making.

A claim is created exclusively, and a thread of its holder rewrites it every few seconds. It is taken
over when its holder's process is gone (seen on the same machine only), or when its content has not
changed for a while. That while is measured by the watcher's own monotonic clock, between two looks at
the file: no clock is compared with another, and none can be set back.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from dslbench import home, paths
from dslbench.errors import RunError
from dslbench.runs import checkpoint, failures, sharing, store

BEAT = 10.0  # seconds between two heartbeats
# Seconds without one after which a holder is given up; longer than a network file system may show
# a file's old content (NFS: a minute).
PATIENCE = 120.0
LOOK_AGAIN = 1.0  # seconds until a run that another process holds is looked at again


class Claim:
    """A run that is ours to make. `lost` turns true when another process has taken it over."""

    def __init__(self, path: Path, handle: int) -> None:
        self.lost = False
        self._path, self._handle, self._beats = path, handle, 0
        self._lock = threading.Lock()
        self._open = True

    def beat(self) -> None:
        """Show that we are alive; an error of the disk is let pass, as the next beat may succeed."""
        with self._lock, contextlib.suppress(OSError):
            if not self._open:
                return
            if not self._is_ours():
                self.lost = True
                return
            self._beats += 1
            self._write()

    def release(self) -> None:
        """Give the run up, or back when it is made."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            with contextlib.suppress(OSError), takeover_lock(self._path.parent):
                ours = self._is_ours()
                os.close(self._handle)  # some systems remove no file that is open
                if ours:
                    self._path.unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        # The same file, and not one that was put in its place: a holder that slept through its
        # patience writes into a file that nobody reads any more, never into its successor's.
        try:
            return os.path.samestat(os.fstat(self._handle), self._path.stat())
        except FileNotFoundError:
            return False

    def _write(self) -> None:
        # Every beat has the same length: rewriting in place needs no room on the disk.
        content = {
            "machine": machine(), "host": platform.node(), "pid": os.getpid(),
            "process_started": process_started(os.getpid()), "beat": f"{self._beats:010d}",
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        os.lseek(self._handle, 0, os.SEEK_SET)
        os.write(self._handle, json.dumps(content).encode())
        os.fsync(self._handle)


class Claims:
    """The claims of this process, and a watch on those of others."""

    def __init__(
        self, warn: Callable[[str], None], *, beat: float = BEAT, patience: float = PATIENCE
    ) -> None:
        self._warn, self._every, self._patience = warn, beat, patience
        self._own: list[Claim] = []
        self._watched: dict[str, tuple[bytes, float]] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Claims:
        with home.storing("claims of runs", folder(), 4096):
            folder().mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        for claim in self._own:
            claim.release()

    def wait_for(self, run_id: str, title: str, say: Callable[[str], None]) -> Claim:
        """Claim a run as soon as no other process holds it; says once who does. Raises as `take` does."""
        claim = self.take(run_id)
        if claim is None:
            say(f"waiting for {title}: {self.holder(run_id)}")
        while claim is None:
            time.sleep(LOOK_AGAIN)
            claim = self.take(run_id)
        return claim

    def take(self, run_id: str) -> Claim | None:
        """Claim a run; None where another process holds it.

        Raises:
            StoreError: where claims cannot be written.
            RunError: where a folder is in its place.
        """
        path = folder() / run_id
        claim = self._create(path)
        if claim is not None:
            return claim
        if path.is_dir():
            raise RunError(f"{path} is a folder where a claim belongs", "remove it by hand")
        content = _content(path)
        if content is None:
            return self._create(path)  # released since
        seen, since = self._watched.get(run_id, (None, 0.0))
        now = time.monotonic()
        if content != seen:
            self._watched[run_id] = content, now
            since = now
        if now - since < self._patience and not _is_dead(content):
            return None
        with takeover_lock(path.parent):
            if _content(path) != content:  # another process was faster, or its holder woke up
                return None
            with home.storing(f"the claim of run {run_id}", path.parent):
                path.unlink(missing_ok=True)
        self._warn(f"run {run_id}: taken over from {_holder(content)}, which has stopped")
        return self._create(path)

    def holder(self, run_id: str) -> str:
        """Who holds a run, in words."""
        content = _content(folder() / run_id)
        return _holder(content) if content else "another process"  # none yet: created, not written

    def _create(self, path: Path) -> Claim | None:
        with home.storing(f"the claim of run {path.name}", path.parent, 4096):
            try:
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
            except FileExistsError:
                return None
            claim = Claim(path, handle)
            try:
                claim._write()
            except OSError:
                claim.release()
                raise
        self._own = [own for own in self._own if own._open] + [claim]
        return claim

    def _beat(self) -> None:
        while not self._closed.wait(self._every):
            for claim in list(self._own):
                claim.beat()


def tidy_stored_runs() -> None:
    """Remove what processes left beside stored runs that were killed before they had cleared up.

    Nobody makes such a run any more, so that nobody would take its claim over. What a living process
    has claimed is let alone.
    """
    runs = home.runs_dir()
    beside = {path.name for name in (".claims", ".checkpoints") for path in (runs / name).glob("*")}
    beside |= {path.name.partition(".")[0] for path in (runs / ".logs").glob("*")}
    beside |= {path.name.split(".")[1] for path in runs.glob(".*.*")}
    # Made again, and failed: its log says why.
    beside -= {path.stem for path in failures.folder().glob("*.json")}
    for run_id in beside:
        path = folder() / run_id
        if not (runs / run_id / "run.json").is_file() and not sharing.is_stored(run_id):
            continue
        content = _content(path)
        if content is not None and not _is_dead(content):
            continue
        with contextlib.suppress(OSError), takeover_lock(folder()):
            if _content(path) == content:
                checkpoint.remove(run_id)
                store.remove_remains(run_id)
                path.unlink(missing_ok=True)


def folder() -> Path:
    """Where the claims are."""
    return home.runs_dir() / ".claims"


@contextlib.contextmanager
def takeover_lock(where: Path) -> Iterator[None]:
    """Hold off others that look at a claim and then remove it; the system frees it if we die.

    Where the file system has no locks, two processes may take over one claim within the same
    moment; the next heartbeat tells one of them.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with contextlib.ExitStack() as opened:
        with contextlib.suppress(OSError):
            file = opened.enter_context(_opened(where / ".lock"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _opened(path: Path) -> BinaryIO:
    # Without waiting, should it be a pipe.
    flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK
    return os.fdopen(os.open(path, flags, 0o666), "rb")


@cache
def machine() -> str:
    """Names this machine, its boot and its process numbers' name space: where a pid means one process."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def process_started(pid: int) -> str | None:
    """When a process began, in the system's own units; "" where that is not known, None if it is gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass  # another user's
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *rest = fields.rpartition(")")[2].split()
    return None if state in "ZX" else rest[18]


def _content(path: Path) -> bytes | None:
    try:
        return paths.read_bytes(path, 4096)
    except FileNotFoundError:
        return b"a link to nothing" if path.is_symlink() else None
    except OSError as error:
        return f"unreadable: {error.strerror}".encode()


def _parsed(content: bytes) -> dict[str, Any] | None:
    """What a claim says; None where it is not a claim (or not yet: it is created, then written)."""
    try:
        found = json.loads(content)
        pid = found["pid"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    whole = isinstance(pid, int) and not isinstance(pid, bool) and 0 < pid < 2**31
    words = all(isinstance(found.get(key), str) for key in ("machine", "host", "process_started"))
    return found if whole and words else None


def _is_dead(content: bytes) -> bool:
    """Whether the holder's process is known to be gone."""
    found = _parsed(content)
    if found is None or found["machine"] != machine():
        return False
    started = process_started(found["pid"])
    known = "" not in (started, found["process_started"])
    return started is None or (known and started != found["process_started"])


def _holder(content: bytes) -> str:
    found = _parsed(content)
    return f"process {found['pid']} on {found['host']!r}" if found else "an unreadable claim"
