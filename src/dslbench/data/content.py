"""A file's bytes as text: unpacked, in one encoding, with one kind of line end.

What is done is told by the bytes, never by the name: packed files by their first bytes, encodings by
their mark. What has neither must be UTF-8, or the description says what it is.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import importlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dslbench import paths
from dslbench.errors import DataError

MAX_BYTES = 8 << 30  # unpacked
_CHUNK = 1 << 20
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FOREIGN = (
    (b"\xd0\xcf\x11\xe0", "a workbook of Excel", "save the sheet as csv: File, Save As, CSV UTF-8"),
    (b"PAR1", "a parquet file", 'name it *.parquet, or write format = "parquet"'),
    (b"\x89HDF", "an HDF5 file", "save its table as csv or parquet"),
    (b"MATLAB 5.0", "a MATLAB file", "save its ratings as csv, one rating a line"),
    (b"SQLite format 3", "a database", "export the table as csv"),
    (b"\x80\x04\x95", "a Python pickle", "save it as csv: pickles are never opened"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first: 7z x FILE"),
    (b"Rar!", "a rar archive", "unpack it first: unrar x FILE"),
)


@dataclass(frozen=True)
class Text:
    """Text of a file as UTF-8 bytes with newlines as line ends, and what it was before."""

    name: str
    content: bytes = field(repr=False)
    encoding: str = "UTF-8"
    packed: str | None = None
    complete: bool = True  # the last line has a line end

    @cached_property
    def line_numbers(self) -> npt.NDArray[np.int64]:
        """Line number, from 1, of each line that is not blank."""
        data = np.frombuffer(self.content, dtype=np.uint8)
        starts = np.concatenate([[0], np.flatnonzero(data == 10) + 1])
        if self.complete:
            starts = starts[:-1]
        filled = data[np.minimum(starts, len(data) - 1)] > 32
        for at in np.flatnonzero(~filled):  # a line that begins with a blank, or is one
            end = self.content.find(b"\n", starts[at])
            line = self.content[starts[at] : end if end >= 0 else None]
            filled[at] = not _is_blank(line)
        return np.flatnonzero(filled) + 1

    def refuse(self, line: int, problem: str, hint: str | None = None) -> DataError:
        """The error for what is wrong in a line."""
        return DataError(f"{self.name}, line {line}: {problem}", hint)


PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".z", ".lzma")


def bare_name(name: str) -> str:
    """A file's name without the suffix of what it is packed with: `a.csv.gz` is `a.csv`."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in PACKED and "." in path.stem else name


def stem(name: str) -> str:
    """A file's name without its suffixes: `a.csv.gz` and `a.csv` are `a`."""
    path = PurePosixPath(bare_name(name))
    return path.stem if path.suffix.lower() not in PACKED or path.stem else name


def _is_blank(line: bytes) -> bool:
    return not line or line.isspace()


def read_bytes(path: Path) -> tuple[bytes, str | None]:
    """Bytes of a file, unpacked, and what it was packed with. Raises DataError.

    A file that changes while it is read is refused.
    """
    try:
        before = path.stat()
        content = paths.read_bytes(path)
        after = path.stat()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror or error}") from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise DataError(f"{path.name} changed while it was read", hint="wait until it is complete")
    return unpack(content, path.name)


def read_text(path: Path, encoding: str | None = None) -> Text:
    """Text of a file. Raises DataError naming what it is instead, or the line that is not text."""
    content, packed = read_bytes(path)
    for start, what, hint in _FOREIGN:
        if content.startswith(start):
            raise DataError(f"{path.name} is {what}, not text", hint=hint)
    return decode(content, path.name, encoding, packed)


def unpack(content: bytes, name: str) -> tuple[bytes, str | None]:
    """Unpack gzip, bzip2, xz, zstd, or a zip of one file; others come back as they are."""
    openers: tuple[tuple[bytes, str, Callable[[IO[bytes]], Any]], ...] = (
        (b"\x1f\x8b", "gzip", gzip.open),
        (b"BZh", "bzip2", bz2.open),
        (b"\xfd7zXZ\0", "xz", lzma.open),
        (b"\x28\xb5\x2f\xfd", "zstd", lambda file: _zstd(file, name)),
    )
    for start, how, opened in openers:
        if content.startswith(start) and (how != "bzip2" or content[4:10] == b"1AY&SY"):
            try:
                with opened(io.BytesIO(content)) as file:
                    return _bounded(file, name), how
            except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
                raise DataError(f"{name} is a broken {how} file: {error}") from None
    if content.startswith(b"PK\x03\x04"):
        return _unzip(content, name), "zip"
    if content.startswith(b"PK\x05\x06"):
        raise DataError(f"{name} is a zip without files")
    return content, None


def _bounded(file: IO[bytes], name: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    while chunk := file.read(_CHUNK):
        size += len(chunk)
        if size > MAX_BYTES:
            raise DataError(f"{name} unpacks to more than {MAX_BYTES:,} bytes")
        parts.append(chunk)
    return b"".join(parts)


def _zstd(file: IO[bytes], name: str) -> IO[bytes]:
    for module in ("compression.zstd", "backports.zstd", "pyzstd"):
        try:
            opened: IO[bytes] = importlib.import_module(module).ZstdFile(file)
        except ImportError:
            continue
        return opened
    try:
        reader: IO[bytes] = (
            importlib.import_module("zstandard").ZstdDecompressor().stream_reader(file)
        )
    except ImportError:
        raise DataError(
            f"{name}: reading zstd needs the package zstandard",
            hint=f"pip install zstandard, or unpack it: zstd -d {name}",
        ) from None
    return reader


def _unzip(content: bytes, name: str) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as box:
            names = [info.filename for info in box.infolist() if not info.is_dir()]
            if "xl/workbook.xml" in names or "[Content_Types].xml" in names:
                raise DataError(
                    f"{name} is a workbook of Excel, not text",
                    hint="save the sheet as csv: File, Save As, CSV UTF-8",
                )
            if names and all(member.endswith(".npy") for member in names):
                raise DataError(
                    f"{name} holds numpy arrays", hint="name it *.npz where scipy saved it"
                )
            for member in names:
                path = PurePosixPath(member.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts:
                    raise DataError(f"{name}: unsafe path {member!r} in the archive")
            kept = [m for m in names if not _is_litter(m)]
            if len(kept) != 1:
                listed = ", ".join(kept[:6]) + (", ..." if len(kept) > 6 else "")
                raise DataError(
                    f"{name} has {len(kept)} files, not one" + (f": {listed}" if kept else ""),
                    hint=f"unpack it and name one: unzip {name}",
                )
            with box.open(kept[0]) as file:
                return _bounded(file, name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        raise DataError(f"{name} is a broken zip: {error}") from None
    except RuntimeError as error:  # zipfile's word for an encrypted member
        raise DataError(f"{name} cannot be opened: {error}") from None


def _is_litter(member: str) -> bool:
    path = PurePosixPath(member)
    return path.parts[0] == "__MACOSX" or path.name[0] == "."


def decode(content: bytes, name: str, encoding: str | None, packed: str | None = None) -> Text:
    """Bytes as text, in the given encoding, or by their mark, or as UTF-8."""
    shown = "UTF-8"
    if encoding is None:
        mark = next(((mark, known) for mark, known in _MARKS if content.startswith(mark)), None)
        if mark is not None and mark[1] != "utf-8":
            encoding = mark[1]
            shown = f"{encoding.upper()} (by its mark)"
        elif mark is not None:
            content, shown = content.removeprefix(codecs.BOM_UTF8), "UTF-8 (with a mark)"
    else:
        shown = encoding
    if encoding is not None:
        try:
            content = content.decode(encoding).removeprefix("\ufeff").encode("utf-8")
        except (UnicodeDecodeError, UnicodeEncodeError) as error:
            at = error.start if isinstance(error, UnicodeDecodeError) else 0
            line = content[:at].count(b"\n") + 1
            raise DataError(f"{name}, line {line}: not {encoding} text") from None
        except LookupError:
            raise DataError(
                f"{name}: unknown encoding '{encoding}'",
                hint='for example encoding = "latin-1", "cp1252", "utf-16"',
            ) from None
    else:
        _check_utf8(content, name)
    content = _newlines(content, name)
    if not content.strip():
        raise DataError(f"{name} is empty")
    return Text(name, content, shown, packed, content.endswith(b"\n"))


def _check_utf8(content: bytes, name: str) -> None:
    if b"\0" in content:
        if content[257:262] == b"ustar":
            raise DataError(f"{name} is a tar archive", hint="unpack it: tar -xf")
        half = content[:4096]
        for start, known in ((1, "utf-16-le"), (0, "utf-16-be")):
            zeros = half[start::2].count(0)
            if zeros * 2 > len(half) * 0.7:
                raise DataError(
                    f"{name} looks like UTF-16 without a mark",
                    hint=f'say so in a TOML beside the file: encoding = "{known}"',
                )
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise DataError(f"{name}, line {line}: binary data, not text")
    if content.isascii():
        return
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name}, line {line}: not UTF-8 text",
            hint="say what it is in a TOML beside the file"
            f' ({Path(name).stem}.toml): encoding = "latin-1" (or cp1252, utf-16, gbk, ...)',
        ) from None


def _newlines(content: bytes, name: str) -> bytes:
    if b"\r" not in content:
        return content
    if b"\n" not in content:  # of an old Macintosh
        return content.replace(b"\r", b"\n")
    content = content.replace(b"\r\n", b"\n")
    if (lone := content.find(b"\r")) >= 0:
        line = content[:lone].count(b"\n") + 1
        raise DataError(
            f"{name}, line {line}: a carriage return inside the line",
            hint="write the file with one kind of line end",
        )
    return content
