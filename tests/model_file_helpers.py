"""Model files taken apart and put together again, without the checksums that are written today."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from safetensors.numpy import load, save


def parts(content: bytes) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    size = int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["dslbench"])
    del about["crc32"]  # what is joined again is as a file before it was: read for what it says
    return dict(load(content)), about


def joined(arrays: dict[str, np.ndarray[Any, Any]], about: Any) -> bytes:
    return bytes(save(arrays, metadata={"dslbench": json.dumps(about)}))
