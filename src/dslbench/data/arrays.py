"""Files of numpy arrays (.npz), looked at before they are believed: a header may promise anything."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import numpy as np

from dslbench import paths

_LARGEST_RATIO = 1032  # deflate cannot pack better


def read_npz(path: Path, most: int | None = None) -> io.BytesIO:
    """The file's content, once every array in it is known to be as large as its header says.

    Args:
        most: bytes that all arrays together may have; None: as many as the file can hold.

    Raises:
        OSError: where it is not a plain file that can be read.
        ValueError: for what is no such file, or promises more than there is.
    """
    content = io.BytesIO(paths.read_bytes(path))
    try:
        with zipfile.ZipFile(content) as box:
            infos = box.infolist()
            largest = _LARGEST_RATIO * len(content.getvalue()) if most is None else most
            if sum(info.file_size for info in infos) > largest:
                raise ValueError("unpacks to more than it can hold")
            for info in infos:
                with box.open(info) as file:
                    _check_header(file, info)  # type: ignore[arg-type]  # it reads, which is enough
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise ValueError(f"not a file of arrays ({error})") from None
    content.seek(0)
    return content


def _check_header(file: io.BufferedIOBase, info: zipfile.ZipInfo) -> None:
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects")
    promised = math.prod(shape) * dtype.itemsize
    if promised > info.file_size:
        raise ValueError(f"{info.filename} promises {promised:,} bytes and has {info.file_size:,}")
