"""Whether arrays and a text are still what was written: CRC-32 of each."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_TEXT = ""  # no array is called so


def of(arrays: Mapping[str, npt.NDArray[Any]], text: str) -> dict[str, int]:
    """Checksums by name, in order; that of the text has none."""
    found = {
        name: zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        for name, array in sorted(arrays.items())
    }
    return found | {_TEXT: zlib.crc32(text.encode())}


def check(arrays: Mapping[str, npt.NDArray[Any]], text: str, expected: Mapping[str, int]) -> None:
    """Raise `ValueError` for what is not as it was written, or is missing, or too much."""
    found = of(arrays, text)
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            part = "what the file says of itself" if name == _TEXT else f"'{name}'"
            raise ValueError(f"{part} is not what was written")
