"""Full ranking: every item not seen in training is ranked for every user with something to find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from dslbench.backbones.base import CandidateScorer, Scorer
from dslbench.errors import UsageError
from dslbench.metrics import DEFAULT_METRICS, Float64, largest_cutoff, means, per_user
from dslbench.ops import kernels
from dslbench.ops.threads import even_bounds, run_rows
from dslbench.seeds import Streams

# Bytes of one block of scores; small enough to stay near the cores, large enough for the product.
BLOCK_BYTES = 16 << 20
# All items' vectors are read once for each block: with too few users in it that takes most of the time.
LEAST_USERS = 32


@dataclass(frozen=True)
class Evaluation:
    """Result of ranking for all users with a non-empty truth.

    Attributes:
        users: (U,) ids, ascending.
        values: per metric, (U,) float64.
        ties: number of users whose list was in part decided by the tie-break.
    """

    users: npt.NDArray[np.int64]
    values: dict[str, Float64]
    ties: int

    @property
    def means(self) -> dict[str, float]:
        """Average of each metric over the users."""
        return means(self.values)


def tie_priority(n_items: int, seed: int) -> npt.NDArray[np.int32]:
    """A random order of the items by which equal scores are ranked.

    Ranking equal scores by item id would be optimistic: in the standard splits low ids are the
    popular items.
    """
    return Streams(seed).fresh("ties").permutation(n_items).astype(np.int32)


def evaluate(
    scorer: Scorer,
    truth: sparse.csr_matrix,
    seen: sparse.csr_matrix,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    seed: int = 0,
    device: torch.device | None = None,
    block_users: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Evaluation:
    """Rank all unseen items and compare with the truth.

    Args:
        scorer: from `Backbone.scorer`.
        truth: (N, M) binary CSR with sorted rows; users without entries are left out of averages.
        seen: (N, M) binary CSR; its items are excluded from the user's ranking.
        metrics: names such as "recall@20".
        seed: of the tie-break.
        device: where the scorer computes; None means the CPU.
        block_users: users scored at a time; None: as many as `users_per_block` says.
        progress: called with the share of users done.
    """
    n_items = int(truth.shape[1])
    users = np.flatnonzero(np.diff(truth.indptr)).astype(np.int64)
    k = min(largest_cutoff(metrics), n_items)
    priority = tie_priority(n_items, seed)
    hits = np.zeros((len(users), k), dtype=bool)
    tied = np.zeros(len(users), dtype=bool)
    rank = _rank_on_device if device is not None and device.type != "cpu" else _rank_on_cpu

    def judge(part: slice) -> None:
        ids = users[part]
        scores = scorer(
            torch.from_numpy(ids) if device is None else torch.from_numpy(ids).to(device)
        )
        items, tied[part] = rank(scores, ids, priority, seen, k)
        run_rows(
            kernels.known_pairs, even_bounds(items.size), truth.indptr, truth.indices,
            ids.repeat(k), items.ravel(), hits[part].reshape(-1),
        )  # fmt: skip
        if progress is not None:
            progress(part.stop / len(users))

    _in_blocks(len(users), block_users or users_per_block(n_items), judge)
    sizes = np.diff(truth.indptr)[users]
    values = {name: per_user(name, hits, sizes) for name in metrics}
    return Evaluation(users, values, int(tied.sum()))


def evaluate_sampled(
    scorer: CandidateScorer,
    truth: sparse.csr_matrix,
    negatives: npt.NDArray[np.int32],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    seed: int = 0,
    device: torch.device | None = None,
    block_users: int | None = None,
) -> Evaluation:
    """Rank the user's held-out items among a fixed set of sampled ones.

    Args:
        scorer: from `Backbone.candidate_scorer`.
        truth: (N, M) binary CSR; users without entries are left out of averages.
        negatives: (N, n) items, -1 where there are fewer; none of them is in `truth`.

    The other arguments are those of `evaluate`.
    """
    priority = tie_priority(int(truth.shape[1]), seed)
    sizes = np.diff(truth.indptr)
    users = np.flatnonzero(sizes).astype(np.int64)
    most = int(sizes.max(initial=0))
    width = most + negatives.shape[1]
    k = largest_cutoff(metrics)
    hits = np.zeros((len(users), k), dtype=bool)
    tied = np.zeros(len(users), dtype=bool)

    def judge(part: slice) -> None:
        ids = users[part]
        items = np.full((len(ids), width), -1, dtype=np.int64)
        own = truth[ids].tocoo()
        place = np.arange(own.nnz) - np.repeat(np.cumsum(sizes[ids]) - sizes[ids], sizes[ids])
        items[own.row, place] = own.col
        items[:, most:] = negatives[ids]
        tensors = torch.from_numpy(ids), torch.from_numpy(np.maximum(items, 0))
        scores = scorer(*(t if device is None else t.to(device) for t in tensors)).cpu().numpy()
        scores = np.where(items >= 0, scores, -np.inf)
        order = np.lexsort((priority[items], -scores), axis=-1)
        ranked = np.take_along_axis(scores, order, axis=-1)
        found = (order < most) & np.isfinite(ranked)
        hits[part, : min(k, width)] = found[:, :k]
        best = ranked[:, : k + 1]
        tied[part] = ((best[:, 1:] == best[:, :-1]) & np.isfinite(best[:, 1:])).any(axis=1)

    block = block_users or users_per_block(max(width, int(truth.shape[1])))
    _in_blocks(len(users), block, judge)
    values = {name: per_user(name, hits, sizes[users]) for name in metrics}
    return Evaluation(users, values, int(tied.sum()))


def _in_blocks(count: int, block: int, work: Callable[[slice], None]) -> None:
    """Do some work on blocks of users; a block that does not fit into memory is tried at half its size."""
    start = 0
    while start < count:
        stop = min(start + block, count)
        try:
            work(slice(start, stop))
        except (MemoryError, RuntimeError) as error:
            if stop - start == 1 or not _out_of_memory(error):
                raise
            block = (stop - start) // 2
        else:
            start = stop
            continue
        if torch.cuda.is_available():  # here the failed block's tensors are gone
            torch.cuda.empty_cache()


def _out_of_memory(error: Exception) -> bool:
    # On the CPU torch has no type of its own for it.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "DefaultCPUAllocator" in str(error) and "memory" in str(error)
    )


def rank_users(
    scorer: Scorer, users: npt.NDArray[np.int64], seen: sparse.csr_matrix, k: int, seed: int = 0,
    device: torch.device | None = None,
) -> npt.NDArray[np.int32]:  # fmt: skip
    """The k best unseen items of each user (on the CPU), best first, -1 where there are fewer.

    Args:
        scorer: from `Backbone.scorer`.
        users: (U,) ids.
        seen: (N, M) binary CSR of items left out.
        device: where the scorer's model is, if not on the CPU.

    Returns:
        (U, k) item ids.

    Raises `UsageError` for a k below 1.
    """
    if k < 1:
        raise UsageError(f"k is {k}, not a number of items", "k is at least 1")
    k = min(k, int(seen.shape[1]))
    priority = tie_priority(int(seen.shape[1]), seed)
    ids = torch.from_numpy(users)
    scores = scorer(ids if device is None else ids.to(device)).cpu()
    return _rank_on_cpu(scores, users, priority, seen, k)[0]


def users_per_block(n_items: int) -> int:
    """Users that are scored at a time: a block of `BLOCK_BYTES`, or of `LEAST_USERS` if that is more."""
    return max(LEAST_USERS, BLOCK_BYTES // (4 * n_items))


def _rank_on_cpu(
    scores: Tensor, users: npt.NDArray[np.int64], priority: npt.NDArray[np.int32],
    seen: sparse.csr_matrix, k: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:  # fmt: skip
    """The k best unseen items per user, best first, -1 where there are fewer; and who had ties."""
    items = np.empty((len(users), k + 1), dtype=np.int32)
    ranked = np.empty((len(users), k + 1), dtype=np.float32)
    tied = np.empty(len(users), dtype=bool)
    run_rows(
        kernels.rank_rows, even_bounds(len(users)), scores.numpy(), users, priority,
        seen.indptr, seen.indices, items, ranked, tied,
    )  # fmt: skip
    return items[:, :k], tied


def _rank_on_device(
    scores: Tensor, users: npt.NDArray[np.int64], priority: npt.NDArray[np.int32],
    seen: sparse.csr_matrix, k: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:  # fmt: skip
    """The same in torch: score and priority in one 64-bit key, so that order and ties are exact."""
    part = seen[users]
    rows = torch.from_numpy(np.repeat(np.arange(len(users)), np.diff(part.indptr)))
    columns = torch.from_numpy(part.indices.astype(np.int64))
    scores[rows.to(scores.device), columns.to(scores.device)] = -torch.inf
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).to(torch.int64)
    order = torch.from_numpy(priority).to(scores.device, torch.int64)
    keys = (ordered << 32) | (len(priority) - order)
    places = min(k + 1, scores.shape[1])
    items = keys.topk(places, dim=1).indices
    best = scores.gather(1, items)
    valid = best > -torch.inf
    tied = ((best[:, 1:] == best[:, :-1]) & valid[:, 1:]).any(dim=1)
    items = torch.where(valid, items, -1)[:, :k]
    return items.to(torch.int32).cpu().numpy(), tied.cpu().numpy()
