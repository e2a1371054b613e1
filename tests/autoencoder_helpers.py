"""Dense counterparts of what the autoencoders do with sparse rows, and data with users held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dslbench.data.interactions import Interactions, pairs_to_csr
from dslbench.sampling.rows import UserRows
from helpers import make_interactions


def dense_rows(batch: UserRows, n_items: int) -> Tensor:
    x = torch.zeros(len(batch.users), n_items)
    owners = torch.arange(len(batch.users)).repeat_interleave(batch.indptr.diff())
    x[owners, batch.items] = 1
    return x


def dropped_rows(batch: UserRows, x: Tensor, rate: float) -> Tensor:
    """The dense counterpart of `drop_entries`: same draws, entry by entry."""
    kept = torch.from_numpy(batch.noise("dropout").random(len(batch.items), dtype=np.float32))
    owners = torch.arange(len(batch.users)).repeat_interleave(batch.indptr.diff())
    keep = torch.zeros_like(x)
    keep[owners, batch.items] = (kept >= rate).float() / (1 - rate)
    return x * keep


def strong_data() -> Interactions:
    """Of 40 users the last 10 are held out: half of their training items are folded in."""
    data = make_interactions()
    held = np.arange(40) >= 30
    train_pairs, test_pairs = data.train.tocoo(), data.test.tocoo()
    keep, keep_test = ~held[train_pairs.row], held[test_pairs.row]
    return replace(
        data,
        protocol="strong",
        train=pairs_to_csr(train_pairs.row[keep], train_pairs.col[keep], data.train.shape),
        fold_in=pairs_to_csr(train_pairs.row[~keep], train_pairs.col[~keep], data.train.shape),
        valid=pairs_to_csr([], [], data.train.shape),
        test=pairs_to_csr(test_pairs.row[keep_test], test_pairs.col[keep_test], data.test.shape),
    )
