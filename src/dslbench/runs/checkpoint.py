"""Checkpoints: where the trainings of an unfinished run stood, in `runs/.checkpoints/<id>/`.

`PPPP-EEEEEE.safetensors` holds phase P (from 1) after epoch E, `PPPP-end.safetensors` its end. The ends of
all phases are kept, as the method runs again from its start, and of the others the newest and the one
before it. Arrays are the file's tensors, by number; what they are part of is JSON in its metadata; the
last 32 bytes, tensor `digest`, are the BLAKE2b digest of all bytes before them. No code is executed on
reading.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import dslbench
from dslbench import home, paths
from dslbench.cost import measured
from dslbench.errors import UsageError
from dslbench.training.progress import Keeper, Progress
from dslbench.training.state import SAME, Tree

_FORMAT = "dslbench-checkpoint-1"
_DIGEST_BYTES = 32
_TYPES = {
    "float16": "F16", "float32": "F32", "float64": "F64", "bool": "BOOL",
    "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip
# What a write is taken to last before one was measured, in seconds.
_FIRST_WRITE = 0.02

Array = npt.NDArray[Any]
Packed = tuple[str, list[Array]]


class MisfitError(Exception):
    """A checkpoint that is whole, but does not fit the code that runs."""


class Checkpoints(Keeper):
    """Keeps the progress of a run in files, as often as a share of the time allows.

    Args:
        run_id: the run.
        device: where it is trained.
        say: takes one line for the user.
        share: largest share of the time spent on writing: 1 / share times as long as the last write
            took must have passed before the next. 0: nothing is kept.

    Attributes:
        resumed: how many times the run was taken up again.
    """

    def __init__(
        self, run_id: str, device: torch.device, say: Callable[[str], None], share: float = 0.02
    ) -> None:
        self.folder = folder(run_id)
        self.say, self.share, self.device = say, share, device
        self.resumed = 0
        self._about = {"run": run_id, **written_by(device)}
        self._peaks: dict[str, int | None] = {}
        self._phase, self._announced = 0, False
        self._ends: dict[str, Packed] = {}  # of phases too short to have been worth a write
        self._written, self._cost = time.monotonic(), _FIRST_WRITE
        for partial in self.folder.glob(".*"):  # what a write that was killed left behind
            partial.unlink(missing_ok=True)

    def enter(self, progress: Progress) -> None:
        """Bring a phase to its newest checkpoint.

        Raises `MisfitError` for one that doesn't fit: the run must start over.
        """
        progress.mark_start()
        self._phase += 1
        found = self._newest(progress)
        if found is not None:
            try:
                progress.restore(found)
            except Exception as error:
                text = str(error).partition("\n")[0]
                raise MisfitError(f"{type(error).__name__}: {text}") from error
        if progress.finished:
            return
        for path in self._files():  # of later phases: they followed from an end that is lost
            if path.stem.partition("-")[0] > f"{self._phase:04}":
                path.unlink(missing_ok=True)
        if self.resumed and not self._announced:
            self._announced = True
            self.say(f"continues at epoch {progress.loop.epoch + 1} of {progress.record.name}")

    def offer(self, progress: Progress, *, ended: bool = False) -> None:
        """Write a checkpoint if one is due; the end of a phase is written with the next at the latest.

        Where that fails, the run goes on without checkpoints.
        """
        due = self.share * (time.monotonic() - self._written) >= self._cost
        if not self.share or not (due or ended):
            return
        began = time.monotonic()
        at = "end" if ended else f"{progress.loop.epoch:06}"
        packed = pack(progress.state(ended=ended))
        self._ends[f"{self._phase:04}-{at}"] = packed
        if not due:
            packed[1][:] = [array.copy() for array in packed[1]]
            return
        try:
            for name, content in self._ends.items():
                self._write(name, content)
        except OSError as error:
            self.say(f"no more checkpoints: {self.folder}: {error.strerror or error}")
            self.share = 0
        self._ends.clear()
        self._written = time.monotonic()
        self._cost = self._written - began

    def add_peaks(self, found: dict[str, int | None]) -> None:
        """Another process had a part in the run, with these peaks."""
        self._peaks = largest(self._peaks, found)

    def peaks(self) -> dict[str, int | None]:
        """Peak memory of the run over all its processes, bytes."""
        return largest(measured.peaks(self.device), self._peaks)

    def remove(self) -> None:
        """Delete all checkpoints of the run."""
        remove(self.folder.name)

    def _files(self) -> list[Path]:
        """Checkpoints, oldest first."""
        return sorted(self.folder.glob("[0-9]*.safetensors"))

    def _write(self, name: str, packed: Packed) -> None:
        about = self._about | {"resumed": self.resumed, "peaks": self.peaks()}
        write(self.folder / f"{name}.safetensors", about, packed)
        for path in self._files()[:-2]:
            if not path.stem.endswith("end"):
                path.unlink(missing_ok=True)

    def _newest(self, progress: Progress) -> Tree | None:
        """The newest readable checkpoint of the phase; others are deleted, with a line each."""
        for path in reversed(self._files()):
            if not path.name.startswith(f"{self._phase:04}-"):
                continue
            try:
                about, tree = read(path, self._about)
                if tree["record"]["name"] != progress.record.name:
                    raise ValueError(f"of another phase, {tree['record']['name']}")
            except (OSError, ValueError) as error:
                self.say(f"checkpoint {path} is ignored: {error}")
                with suppress(OSError):
                    path.unlink()
                continue
            self.resumed = max(self.resumed, about["resumed"] + 1)
            self.add_peaks(about["peaks"])
            return tree
        return None


def written_by(device: torch.device) -> dict[str, str]:
    """What must be the same for a state to be gone on from."""
    return {
        "format": _FORMAT, "dslbench": dslbench.__version__, "torch": torch.__version__,
        "numpy": np.__version__, "device": device.type,
    }  # fmt: skip


def write(path: Path, about: dict[str, Any], packed: Packed) -> None:
    """Write who writes, and a tree, to a file."""
    text, arrays = packed
    with home.atomic_file(path) as file:
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for part in _content(json.dumps(about), text, arrays):
            digest.update(part)
            file.write(part)
        file.write(digest.digest())


def folder(run_id: str) -> Path:
    """Where a run's checkpoints lie."""
    return home.runs_dir() / ".checkpoints" / run_id


def remove(run_id: str) -> None:
    """Delete the checkpoints of a run: it will start over."""
    shutil.rmtree(folder(run_id), ignore_errors=True)


def sizes() -> dict[str, int]:
    """Bytes on disk of each run's checkpoints, by the run's id."""
    root = folder("")
    found: dict[str, int] = {}
    for path in root.glob("*/*"):
        with suppress(OSError):  # a run in the making has replaced it
            found[path.parent.name] = found.get(path.parent.name, 0) + path.stat().st_size
    return found


def share_of_time() -> float:
    """`DSLBENCH_CHECKPOINT_SHARE`, else 0.02; raises `UsageError` where that is no share."""
    text = os.environ.get("DSLBENCH_CHECKPOINT_SHARE", "0.02")
    with suppress(ValueError):
        if 0 <= (share := float(text)) <= 1:
            return share
    raise UsageError(f"DSLBENCH_CHECKPOINT_SHARE is '{text}', not a share between 0 and 1")


def pack(tree: Tree) -> Packed:
    """A tree as JSON and the arrays that it refers to by number; arrays are not copied."""
    arrays: list[Array] = []

    def number(array: Array) -> int:
        arrays.append(np.asarray(array, order="C"))
        return len(arrays) - 1

    def encode(x: Tree) -> Any:
        if isinstance(x, Tensor):
            return {"tensor": number(x.detach().cpu().numpy()), "device": str(x.device)}
        if isinstance(x, np.ndarray):
            return {"array": number(x)}
        if isinstance(x, np.generic):
            return {"scalar": number(np.asarray(x))}
        if isinstance(x, list):
            return [encode(part) for part in x]
        if isinstance(x, tuple):
            return {"tuple": [encode(part) for part in x]}
        if isinstance(x, dict):
            return {"dict": [[encode(key), encode(part)] for key, part in x.items()]}
        return {"same": True} if x is SAME else x

    return json.dumps(encode(tree)), arrays


def unpack(text: str, array: Callable[[str], Array]) -> Tree:
    """The tree of `pack`, with a function that gives an array of its own for a number."""

    def decode(x: Any) -> Tree:
        if isinstance(x, list):
            return [decode(part) for part in x]
        if not isinstance(x, dict):
            return x
        kind, part = next(iter(x.items()))
        if kind == "tensor":
            return torch.tensor(array(str(part)), device=x["device"])
        if kind == "array":
            return np.array(array(str(part)))
        if kind == "scalar":
            return array(str(part))[()]
        if kind == "tuple":
            return tuple(decode(each) for each in part)
        if kind == "dict":
            return {decode(key): decode(each) for key, each in part}
        return SAME

    return decode(json.loads(text))


def read(path: Path, expected: dict[str, str]) -> tuple[dict[str, Any], Tree]:
    """Who wrote a checkpoint, and its tree.

    Raises `ValueError` where it is not whole, or written by others than expected.
    """
    if paths.kind(path) != "file":  # a pipe would be waited for
        raise ValueError("not a plain file")
    if _digest_of(path) != _stored_digest(path):
        raise ValueError("damaged")
    try:
        with safe_open(path, "numpy") as file:
            found = file.metadata()
            about: dict[str, Any] = json.loads(found["about"])
            for name, wanted in expected.items():
                if about.get(name) != wanted:
                    raise ValueError(f"made with {name} {about.get(name)}, not {wanted}")
            return about, unpack(found["tree"], file.get_tensor)
    except (KeyError, TypeError, AttributeError, SafetensorError, RecursionError) as error:
        raise ValueError("not a checkpoint") from error


def largest(a: dict[str, int | None], b: dict[str, int | None]) -> dict[str, int | None]:
    """The larger number of each name, None where there is none."""
    names = {name: (a.get(name), b.get(name)) for name in a | b}
    return {
        name: max((x for x in both if x is not None), default=None) for name, both in names.items()
    }


def _digest_of(path: Path) -> bytes:
    """Digest of all but the last bytes of a file."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    left = path.stat().st_size - _DIGEST_BYTES
    with path.open("rb") as file:
        while left > 0 and (part := file.read(min(left, 1 << 20))):
            digest.update(part)
            left -= len(part)
    return digest.digest()


def _stored_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _DIGEST_BYTES))
        return file.read()


def _content(about: str, text: str, arrays: list[Array]) -> Iterator[bytes | memoryview]:
    """All bytes of the file but the digest, array by array, so that no copy of the whole is made."""
    header: dict[str, Any] = {"__metadata__": {"about": about, "tree": text}}
    end = 0
    for number, array in enumerate(arrays):
        span = [end, end := end + array.nbytes]
        entry = {"dtype": _TYPES[array.dtype.name], "shape": array.shape, "data_offsets": span}
        header[str(number)] = entry
    span = [end, end + _DIGEST_BYTES]
    header["digest"] = {"dtype": "U8", "shape": [_DIGEST_BYTES], "data_offsets": span}
    head = json.dumps(header).encode("utf-8")
    head += b" " * (-len(head) % 8)
    yield len(head).to_bytes(8, "little") + head
    for array in arrays:
        yield array.reshape(-1).view(np.uint8).data
