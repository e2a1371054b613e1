"""What is an id, and what is none: one rule for all formats.

An id is its text, without blanks around it and without the quotes of RFC 4180. `"1"` is `1`; `007` is
not `7`. A column that holds both `1` and `1.0` is refused, as somebody's program has made one of
the other, and so are numbers that a spreadsheet shortened (`1.2E+11`). No id is: an empty field,
NULL, \\N, NaN, None, NA, N/A, <NA>, #N/A, in any case. Rows without an id are refused, or left out
where the description says `missing = "drop"`; `missing = "keep"` takes all but empty fields as ids.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from dslbench.data.raw import Labels

MISSING = frozenset({"", "null", "\\n", "nan", "none", "na", "n/a", "<na>", "#n/a"})
LONGEST = 1000
_SHORTENED = re.compile(r"[0-9]([.,][0-9]+)?[eE]\+[0-9]+")  # the mark is a comma in half of Europe
_WHOLE_FLOAT = re.compile(r"[0-9]+\.0+")


def is_missing(label: str, *, keep: bool = False) -> bool:
    """Whether a text is no id; with `keep` only an empty one is none."""
    return label == "" if keep else label.lower() in MISSING


def missing_among(labels: Labels, *, keep: bool) -> npt.NDArray[np.bool_]:
    """For each distinct text whether it is no id."""
    return np.array([is_missing(label, keep=keep) for label in labels], dtype=bool)


def doubtful(labels: Labels) -> tuple[int, str] | None:
    """Position of an id that cannot be meant, and why; None where all can."""
    known = set(labels)
    for at, label in enumerate(labels):
        if len(label) > LONGEST:
            return at, f"an id of {len(label):,} characters: a quote or a separator may be wrong"
        if "." in label and _WHOLE_FLOAT.fullmatch(label) and label.partition(".")[0] in known:
            return at, f"'{label}' and '{label.partition('.')[0]}' are both ids: is it one?"
        if label[:1] == "\ufeff":
            return (
                at,
                f"'{label[1:]}' begins with a mark of byte order: was a file put behind another?",
            )
        if "+" in label and _SHORTENED.fullmatch(label):
            return at, f"'{label}' is a number that a spreadsheet has shortened, not an id"
    return None
