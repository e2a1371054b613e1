"""Original ids: kept as text, put in an order that does not depend on the file's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[Any]


def sort_labels(labels: Labels) -> Labels:
    """Distinct labels: by value where all are plain integers, else alphabetically.

    '007' is not a plain integer: it stays apart from '7'.
    """
    distinct = {str(label) for label in labels}
    plain = all(label.isascii() and label.isdigit() and _is_plain(label) for label in distinct)
    ordered = sorted(distinct, key=int) if plain else sorted(distinct)
    return np.array(ordered, dtype=object)


def _is_plain(label: str) -> bool:
    return len(label) < 19 and (label == "0" or label[0] != "0")
