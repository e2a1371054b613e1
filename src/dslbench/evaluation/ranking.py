"""The best unseen items of each user, among all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from dslbench.errors import UsageError
from dslbench.ops import ranking_kernels as kernels
from dslbench.ops.coded import CodedRows
from dslbench.ops.scores import FEW_USERS, ProductScorer, Scorer
from dslbench.ops.threads import even_bounds, run_rows
from dslbench.seeds import Streams

# Bytes of one block of scores; small enough to stay near the cores, large enough for the product.
BLOCK_BYTES = 16 << 20
# All items' vectors are read once for each block: with too few users in it that takes most of the time.
LEAST_USERS = 32

# Entries of coded items that are decoded to float32 for several blocks; of more, some thousand rows at a
# time for each.
_DECODED = 1 << 24

Ids = npt.NDArray[np.int64]
Ranked = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]


def users_per_block(n_items: int) -> int:
    """Users that are scored at a time: a block of `BLOCK_BYTES`, or of `LEAST_USERS` if that is more."""
    return max(LEAST_USERS, BLOCK_BYTES // (4 * n_items))


def tie_priority(n_items: int, seed: int) -> npt.NDArray[np.int32]:
    """A random order of the items by which equal scores are ranked.

    Ranking equal scores by item id would be optimistic: in the standard splits low ids are the
    popular items.
    """
    return Streams(seed).fresh("ties").permutation(n_items).astype(np.int32)


@dataclass(frozen=True)
class _Lists:
    """Which lists are made: their length, what is left out (N, M), and the order of equal scores (M,)."""

    k: int
    seen: sparse.csr_matrix
    priority: npt.NDArray[np.int32]

    def run(self, kernel: Callable[..., None], users: Ids, *block: Any) -> Ranked:
        """What a kernel finds for users in its block of scores."""
        items = np.empty((len(users), self.k + 1), dtype=np.int32)
        ranked = np.empty((len(users), self.k + 1), dtype=np.float32)
        tied = np.empty(len(users), dtype=bool)
        run_rows(
            kernel, even_bounds(len(users), int(self.seen.shape[1])), *block, users, self.priority,
            self.seen.indptr, self.seen.indices, items, ranked, tied,
        )  # fmt: skip
        return items[:, : self.k], tied


class Ranker:
    """Ranks all unseen items for users.

    Args:
        scorer: from `Backbone.scorer`.
        seen: (N, M) binary CSR of items left out, with sorted rows.
        k: length of the lists.
        seed: of the tie-break.
        device: where the scorer computes; None means the CPU.

    Attributes:
        users_at_once: how many users are best ranked in one call.
        most_at_once: how many can be, where a call makes blocks of them that share some work.

    Raises `UsageError` for a k below 1.
    """

    def __init__(
        self,
        scorer: Scorer,
        seen: sparse.csr_matrix,
        k: int,
        *,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        if k < 1:
            raise UsageError(f"k is {k}, not a number of items", "k is at least 1")
        n_items = int(seen.shape[1])
        self.k = min(k, n_items)
        self.users_at_once = users_per_block(n_items)
        # Nothing here knows this object: in a cycle a scorer of gigabytes would outlive its ranking.
        lists = _Lists(self.k, seen, tie_priority(n_items, seed))
        self._rank: Callable[[Ids], Ranked]
        if device is not None and device.type != "cpu":
            self._rank = _OnDevice(lists, scorer, device)
            self.users_at_once *= 4
        elif isinstance(scorer, ProductScorer) and multiplies_bfloat16() and _fits(scorer):
            self.users_at_once *= 2
            self._rank = _Screen(lists, scorer, self.users_at_once)
        elif isinstance(scorer, ProductScorer) and isinstance(scorer.items, CodedRows):
            self._rank = _Blocks(lists, scorer, self.users_at_once)
        else:
            self._rank = _AllScores(lists, scorer)
        self.most_at_once = self.users_at_once * (16 if isinstance(self._rank, _Blocks) else 1)

    def __call__(self, users: Ids) -> Ranked:
        """The k best items of users (U,), best first, -1 where there are fewer; and who had ties.

        Returns:
            (U, k) item ids, and (U,) whether the list was in part decided by the tie-break.
        """
        return self._rank(users)


@dataclass(frozen=True)
class _AllScores:
    """Ranks by scores of all items."""

    lists: _Lists
    scorer: Scorer

    def __call__(self, users: Ids) -> Ranked:
        scores = self.scorer(torch.from_numpy(users))
        return self.lists.run(kernels.rank_rows, users, scores.cpu().numpy())


class _OnDevice:
    """Ranks in torch, where the scorer computes."""

    def __init__(self, lists: _Lists, scorer: Scorer, device: torch.device) -> None:
        self._k, self._scorer, self._device = lists.k, scorer, device
        self._lengths = np.diff(lists.seen.indptr)
        self._starts, self._seen, priority = (
            torch.from_numpy(x).to(device, torch.int64)
            for x in (lists.seen.indptr, lists.seen.indices, lists.priority)
        )
        self._order = len(priority) - priority

    @torch.no_grad()
    def __call__(self, users: Ids) -> Ranked:
        ids = torch.from_numpy(users).to(self._device)
        scores = self._scorer(ids)
        scores[self._unwanted(ids, int(self._lengths[users].sum()))] = -torch.inf
        # What is no number is ranked nowhere; topk takes it for the largest.
        scores.nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        places = min(self._k + 1, scores.shape[1])
        items = scores.topk(places, dim=1).indices
        # topk takes any of equal scores. Where some have been left out, priority is to decide.
        least = scores.gather(1, items).amin(dim=1, keepdim=True)
        left_out = ((scores >= least).sum(dim=1) > places) & (least.squeeze(1) > -torch.inf)
        if bool(left_out.any()):
            items[left_out] = self._keys(scores[left_out], self._order).topk(places, dim=1).indices
        by_key = self._keys(scores.gather(1, items), self._order[items]).argsort(
            dim=1, descending=True
        )
        items = items.gather(1, by_key)
        best = scores.gather(1, items)
        valid = best > -torch.inf
        tied = ((best[:, 1:] == best[:, :-1]) & valid[:, 1:]).any(dim=1)
        items = torch.where(valid, items, -1)[:, : self._k]
        return items.to(torch.int32).cpu().numpy(), tied.cpu().numpy()

    def _unwanted(self, ids: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Row and column of all `count` seen items of these users."""
        starts = self._starts[ids]
        lengths = self._starts[ids + 1] - starts
        row = torch.arange(len(ids), device=self._device).repeat_interleave(
            lengths, output_size=count
        )
        before = (lengths.cumsum(0) - lengths)[row]
        within = torch.arange(count, device=self._device) - before
        return row, self._seen[starts[row] + within]

    @staticmethod
    def _keys(scores: Tensor, order: Tensor) -> Tensor:
        """Score and priority in one whole number, greater for what is ranked before."""
        bits = (scores + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
        ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).to(torch.int64)
        return (ordered << 32) | order


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16, several times as fast as float32."""
    features = llvm.get_host_cpu_features()
    return bool(features.get("avx512bf16", False) or features.get("amx-bf16", False))


def _lengths(vectors: Tensor) -> Tensor:
    """(B,) norms, in float64: squares of float32 could underflow."""
    found: Tensor = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    return found


def _bound(vectors: Tensor | CodedRows) -> float:
    """No entry is larger."""
    if isinstance(vectors, CodedRows):
        return vectors.bound()
    return float(vectors.abs().max()) if vectors.numel() else 0.0


def is_finite(scorer: ProductScorer) -> bool:
    """Whether all products are sure to be finite."""
    largest = _bound(scorer.users) * _bound(scorer.items) * scorer.items.shape[1]
    return largest <= torch.finfo(torch.float32).max


def _fits(scorer: ProductScorer) -> bool:
    """Whether the vectors are on the CPU and all products are finite."""
    items = scorer.items
    if isinstance(items, Tensor) and items.device.type != "cpu":
        return False
    return is_finite(scorer)


class _Blocks:
    """Ranks by products, a block of users after the other; coded items are decoded once for all of them."""

    def __init__(self, lists: _Lists, scorer: ProductScorer, block: int) -> None:
        self._lists, self._scorer, self._block = lists, scorer, block
        self._items = scorer.items

    def __call__(self, users: Ids) -> Ranked:
        block = self._block
        starts = range(0, max(1, len(users)), block)
        items = self._items
        if isinstance(items, CodedRows) and len(starts) > 1:
            items = self._decoded(items)  # gone after the call
        parts = [self._some(users[start : start + block], items) for start in starts]
        found, tied = zip(*parts, strict=True)
        return np.concatenate(found), np.concatenate(tied)

    def _decoded(self, items: CodedRows) -> Tensor | CodedRows:
        return items.full() if math.prod(items.shape) <= _DECODED else items

    @torch.no_grad()
    def _some(self, users: Ids, items: Tensor | CodedRows) -> Ranked:
        scores = self._scorer.scores(self._scorer.vectors(torch.from_numpy(users)), items)
        return self._lists.run(kernels.rank_rows, users, scores.numpy())


class _Screen(_Blocks):
    """Ranks by float32 products, of which only those are computed that a bfloat16 product lets through.

    A factor of 8 significant bits is off by 2^-8 of itself at most, so that a product of vectors is
    off by (2^-7 + 2^-16) |u| |v| (Cauchy-Schwarz), and the rounded product by 2^-8 of itself more;
    sums in float32 add d 2^-23 |u| |v|. What is smaller than the smallest normal number may be lost, in
    factors and products. So the result is exactly that of all float32 products, each summed in one
    order.
    """

    def __init__(self, lists: _Lists, scorer: ProductScorer, block: int) -> None:
        super().__init__(lists, scorer, block)
        self._table: Any
        if isinstance(items := scorer.items, Tensor):
            items = items.contiguous()
            self._items, self._table = items.to(torch.bfloat16), items.numpy()
            self._longest = float(_lengths(items).max())
        else:  # decoded where they are needed, rounded or not
            self._table = items.stored
            self._longest = max((float(_lengths(x).max()) for _, x in items.blocks()), default=0.0)

    def _decoded(self, items: CodedRows) -> Tensor:
        return items.rounded()

    def _margins(self, vectors: Tensor) -> Tensor:
        """(B,) twice the largest error of a rounded product of each of these users' vectors."""
        d, lengths = vectors.shape[1], _lengths(vectors)
        relative = 1.01 * (2**-7 + 2**-16 + 2**-8) + d * 2**-23
        lost = torch.finfo(torch.float32).tiny * (d**0.5 * (lengths + self._longest) + d)
        margins: Tensor = 2 * (relative * lengths * self._longest + 2 * lost)
        return margins.float()

    @torch.no_grad()
    def _some(self, users: Ids, items: Tensor | CodedRows) -> Ranked:
        if isinstance(items, CodedRows) and len(users) <= FEW_USERS:
            # To decode all items for one product takes longer than all exact scores.
            return _AllScores(self._lists, self._scorer)(users)
        vectors = self._scorer.vectors(torch.from_numpy(users))
        products = self._scorer.scores(vectors.to(torch.bfloat16), items)
        return self._lists.run(
            kernels.screen_rows, users, products.view(torch.int16).numpy(), self._margins(vectors).numpy(),
            vectors.numpy(), self._table,
        )  # fmt: skip
