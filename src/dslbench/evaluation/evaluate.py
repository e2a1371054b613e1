"""Full ranking: every item not seen in training is ranked for every user with something to find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from dslbench.evaluation.metrics import METRICS, Float64, Lists, Metric, measure
from dslbench.evaluation.ranking import Ranker, tie_priority, users_per_block
from dslbench.ops import kernels
from dslbench.ops.scores import CandidateScorer, Scorer
from dslbench.ops.threads import even_bounds, run_rows


@dataclass(frozen=True)
class Evaluation:
    """Result of ranking for all users with a non-empty truth.

    Attributes:
        users: (U,) ids, ascending.
        values: (U,) float64 of each metric that has a value for each user.
        whole: the metrics that are one number for all lists together; None where that can't be said.
        ties: number of users whose list was in part decided by the tie-break.
    """

    users: npt.NDArray[np.int64]
    values: dict[str, Float64]
    whole: dict[str, float | None]
    ties: int

    def mean(self, metric: str) -> float:
        """Average over the users of a metric that has a value for each."""
        return float(self.values[metric].mean())

    @property
    def means(self) -> dict[str, float | None]:
        """Every metric: the average over the users, summed in float64, or the one number."""
        return {name: float(array.mean()) for name, array in self.values.items()} | self.whole


def evaluate(
    scorer: Scorer,
    truth: sparse.csr_matrix,
    seen: sparse.csr_matrix,
    *,
    metrics: Mapping[str, Metric] = METRICS,
    popularity: npt.NDArray[np.int64] | None = None,
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
        metrics: by name.
        popularity: (M,) training pairs of each item; None: pairs in `seen`.
        seed: of the tie-break.
        device: where the scorer computes; None means the CPU.
        block_users: users scored at a time; None: as many as the ranking says.
        progress: called with the share of users done.
    """
    users = np.flatnonzero(np.diff(truth.indptr)).astype(np.int64)
    ranker = Ranker(scorer, seen, _longest(metrics), seed=seed, device=device)
    k = ranker.k
    lists = np.empty((len(users), k), dtype=np.int32)
    hits = np.zeros((len(users), k), dtype=bool)
    tied = np.zeros(len(users), dtype=bool)

    def judge(part: slice) -> None:
        ids = users[part]
        lists[part], tied[part] = ranker(ids)
        _mark_hits(truth, ids, lists[part], hits[part])
        if progress is not None:
            progress(part.stop / len(users))

    _in_blocks(len(users), block_users or ranker.most_at_once, judge)
    counts = pairs_of_items(seen) if popularity is None else popularity
    found = measure(Lists(lists, hits, truth[users], counts), metrics)
    return Evaluation(users, *found, int(tied.sum()))


def evaluate_sampled(
    scorer: CandidateScorer,
    truth: sparse.csr_matrix,
    negatives: npt.NDArray[np.int32],
    *,
    metrics: Mapping[str, Metric] = METRICS,
    popularity: npt.NDArray[np.int64],
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
    k = _longest(metrics)
    lists = np.full((len(users), k), -1, dtype=np.int32)
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
        kept = np.where(np.isfinite(ranked), np.take_along_axis(items, order, axis=-1), -1)
        lists[part, : min(k, width)] = kept[:, :k]
        best = ranked[:, : k + 1]
        tied[part] = ((best[:, 1:] == best[:, :-1]) & np.isfinite(best[:, 1:])).any(axis=1)

    block = block_users or users_per_block(max(width, int(truth.shape[1])))
    _in_blocks(len(users), block, judge)
    judged = measure(Lists(lists, hits, truth[users], popularity, whole=False), metrics)
    return Evaluation(users, *judged, int(tied.sum()))


def evaluate_lists(
    lists: npt.NDArray[np.int32],
    truth: sparse.csr_matrix,
    popularity: npt.NDArray[np.int64],
    metrics: Mapping[str, Metric] = METRICS,
) -> Evaluation:
    """Compare given lists with the truth.

    Args:
        lists: (N, k) items, best first, -1 where there are fewer.
        truth: (N, M) binary CSR with sorted rows; users without entries are left out of averages.
        popularity: (M,) training pairs of each item.
        metrics: by name; none looks further than k.
    """
    users = np.flatnonzero(np.diff(truth.indptr)).astype(np.int64)
    items = np.ascontiguousarray(lists[users])
    hits = np.zeros(items.shape, dtype=bool)
    _mark_hits(truth, users, items, hits)
    return Evaluation(users, *measure(Lists(items, hits, truth[users], popularity), metrics), 0)


def _mark_hits(
    truth: sparse.csr_matrix, users: npt.NDArray[np.int64], items: npt.NDArray[np.int32],
    hits: npt.NDArray[np.bool_],
) -> None:  # fmt: skip
    """Which of the items (U, k) of these users are in their truth."""
    run_rows(
        kernels.known_pairs, even_bounds(items.size), truth.indptr, truth.indices,
        users.repeat(items.shape[1]), items.ravel(), hits.reshape(-1),
    )  # fmt: skip


def pairs_of_items(matrix: sparse.csr_matrix) -> npt.NDArray[np.int64]:
    """(M,) pairs of each item."""
    return np.bincount(matrix.indices, minlength=matrix.shape[1]).astype(np.int64)


def _longest(metrics: Mapping[str, Metric]) -> int:
    """The length of lists that serves all metrics."""
    return max(metric.k for metric in metrics.values())


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
