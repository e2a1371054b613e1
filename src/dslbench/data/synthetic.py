"""`toy`: a small synthetic data set with what real data has.

Power-law popularity and activity, and tastes of high rank: many small overlapping clusters, of
which every user likes a few, so that a model with more parameters does better. All arithmetic
after the uniform draws is on integers, so that every machine makes the same data.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from dslbench.data.interactions import Int32

N_USERS, N_ITEMS = 1000, 800
N_CLUSTERS = 80
CLUSTERS_PER_ITEM = 2
CLUSTERS_PER_USER = 5
AFFINITY = 60  # how much more likely an item is, per cluster shared with the user
SEED = 7


@cache
def generate() -> tuple[tuple[Int32, Int32], tuple[Int32, Int32]]:
    """(users, items) of train and of test, split 80/20 per user; about 30,000 pairs. Read-only."""
    draw = np.random.Generator(np.random.PCG64(SEED)).random
    popularity = 1_000_000 // (_shuffled(N_ITEMS, draw(N_ITEMS)) + 20)
    activity = 12 + 6_600 // (_shuffled(N_USERS, draw(N_USERS)) + 60)
    item_tastes = _memberships(draw((N_ITEMS, CLUSTERS_PER_ITEM)), N_ITEMS)
    user_tastes = _memberships(draw((N_USERS, CLUSTERS_PER_USER)), N_USERS)
    weights = popularity * (1 + AFFINITY * (user_tastes @ item_tastes.T))
    train: list[npt.NDArray[np.int64]] = []
    test: list[npt.NDArray[np.int64]] = []
    for user in range(N_USERS):
        bounds = np.cumsum(weights[user])
        picks = np.searchsorted(bounds, (draw(2000) * bounds[-1]).astype(np.int64), side="right")
        _, first = np.unique(picks, return_index=True)
        chosen = picks[np.sort(first)[: activity[user]]]  # weighted, without replacement
        held = len(chosen) // 5
        order = np.argsort(draw(len(chosen)), kind="stable")
        test.append(np.stack([np.full(held, user), chosen[order[:held]]]))
        train.append(np.stack([np.full(len(chosen) - held, user), chosen[order[held:]]]))
    return _columns(train), _columns(test)


def _shuffled(size: int, draws: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The numbers 0..size-1 in random order."""
    return np.argsort(draws, kind="stable")


def _memberships(draws: npt.NDArray[np.float64], rows: int) -> npt.NDArray[np.int64]:
    """Row x cluster 0/1: the clusters each row belongs to."""
    members = np.zeros((rows, N_CLUSTERS), dtype=np.int64)
    members[np.arange(rows)[:, None], (draws * N_CLUSTERS).astype(np.int64)] = 1
    return members


def _columns(parts: list[npt.NDArray[np.int64]]) -> tuple[Int32, Int32]:
    pairs = np.concatenate(parts, axis=1).astype(np.int32)
    pairs.flags.writeable = False
    return pairs[0], pairs[1]
