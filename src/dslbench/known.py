"""What a model file says of the data beside the model: original ids, and pairs where it was told to.

With its ids a model is asked, and answers, in the names of those who brought the data. With the pairs
it needs no data set any longer: they are what users are scored from, and what is not recommended again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dslbench.data.interactions import Interactions, no_pairs

Arrays = Mapping[str, npt.NDArray[Any]]
_PARTS = ("train", "valid", "test", "fold_in")
_SIDES = ("users", "items")


@dataclass(frozen=True)
class Known:
    """Of a model's data: its size, its ids, and its pairs where they travel with the model.

    Attributes:
        shape: number of users and items.
        user_ids, item_ids: (N,) and (M,) original ids; None: the numbers themselves.
        pairs: by part (`train`, `valid`, `test`, `fold_in`), (N, M) binary CSR; None: left out.
    """

    shape: tuple[int, int]
    user_ids: npt.NDArray[Any] | None = None
    item_ids: npt.NDArray[Any] | None = None
    pairs: Mapping[str, sparse.csr_matrix] | None = None

    @classmethod
    def of(cls, data: Interactions, *, pairs: bool) -> Known:
        """What is known of a data set; `pairs`: with everything that its users have seen."""
        found = {part: getattr(data, part) for part in _PARTS}
        kept = {part: matrix for part, matrix in found.items() if matrix is not None}
        shape = data.n_users, data.n_items
        return cls(shape, data.user_ids, data.item_ids, kept if pairs else None)

    def data(self, name: str, protocol: str) -> Interactions:
        """As a data set, without pairs where they did not travel."""
        pairs, none = self.pairs or {}, no_pairs(self.shape)
        train, valid, test = (pairs.get(part, none) for part in ("train", "valid", "test"))
        return Interactions(
            name, protocol, train, valid, test, fold_in=pairs.get("fold_in"),
            user_ids=self.user_ids, item_ids=self.item_ids,
        )  # fmt: skip

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """As arrays for a file."""
        found: dict[str, npt.NDArray[Any]] = {"shape": np.array(self.shape, dtype=np.int64)}
        for side, ids in zip(_SIDES, (self.user_ids, self.item_ids), strict=True):
            if ids is not None:
                found |= {f"{side}.{name}": array for name, array in _written(ids).items()}
        for part, matrix in (self.pairs or {}).items():
            found[f"{part}.starts"], found[f"{part}.items"] = matrix.indptr, matrix.indices
        return found

    @classmethod
    def read(cls, arrays: Arrays) -> Known:
        """From a file's arrays; raises `ValueError` where they do not fit together."""
        try:
            return cls._read(dict(arrays))
        except (LookupError, TypeError, UnicodeDecodeError, OverflowError, AttributeError):
            raise ValueError("what it says of its data is damaged") from None

    @classmethod
    def _read(cls, left: dict[str, npt.NDArray[Any]]) -> Known:
        if (size := left.pop("shape")).shape != (2,):
            raise ValueError("what it says of its data is damaged")
        n, m = (int(x) for x in size)
        if not (0 <= n < 1 << 31 and 0 <= m < 1 << 31):
            raise ValueError(f"{n} users and {m} items")
        user_ids, item_ids = (
            _read_ids(left, side, size) for side, size in zip(_SIDES, (n, m), strict=True)
        )
        pairs = {}
        for part in _PARTS:
            if f"{part}.starts" in left:
                starts, items = left.pop(f"{part}.starts"), left.pop(f"{part}.items")
                if not _is_csr(starts, items, (n, m)):
                    raise ValueError(f"the pairs of '{part}' are damaged")
                ones = np.ones(len(items), dtype=np.float32)
                pairs[part] = sparse.csr_matrix((ones, items, starts), shape=(n, m))
        if left:
            raise ValueError(f"'{min(left)}' says nothing of data")
        if pairs and not {"train", "valid", "test"} <= pairs.keys():
            raise ValueError("some parts of the pairs are missing")
        return cls((n, m), user_ids, item_ids, pairs or None)


def _is_csr(starts: npt.NDArray[Any], items: npt.NDArray[Any], shape: tuple[int, int]) -> bool:
    """Whether these are rows of distinct, ascending numbers of items."""
    if (
        starts.shape != (shape[0] + 1,)
        or items.ndim != 1
        or {starts.dtype.kind, items.dtype.kind} != {"i"}
    ):
        return False
    if starts[0] != 0 or starts[-1] != len(items) or (np.diff(starts) < 0).any():
        return False
    rows = np.repeat(np.arange(shape[0]), np.diff(starts))
    rising = (np.diff(items) > 0) | (np.diff(rows) > 0)
    inside = (items >= 0) & (items < shape[1])
    return bool(rising.all() and inside.all())


def _written(ids: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Whole numbers as they are, texts one after the other with their ends."""
    if ids.dtype.kind in "iu":
        return {"numbers": ids.astype(np.int64)}
    texts = [str(one).encode() for one in ids]
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    return {"text": np.frombuffer(b"".join(texts), dtype=np.uint8), "ends": ends}


def _read_ids(left: dict[str, npt.NDArray[Any]], side: str, size: int) -> npt.NDArray[Any] | None:
    found = left.pop(f"{side}.numbers", None)
    if found is None and f"{side}.ends" in left:
        ends, text = left.pop(f"{side}.ends"), left.pop(f"{side}.text").tobytes()
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        if ends.dtype.kind != "i" or (starts > ends).any() or int(ends[-1]) != len(text):
            raise ValueError(f"the ids of {side} are damaged")
        texts = [text[a:b].decode() for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
        found = np.array(texts, dtype=object)
    if found is not None and found.shape != (size,):
        raise ValueError(f"there are {len(found)} ids for {size} {side}")
    return found
