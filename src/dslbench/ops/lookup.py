"""Scores of each user of a batch with items of its own, without copying the items' rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dslbench.ops import kernels, lookup_kernels
from dslbench.ops.base import Macs, Op, live, live_by_row, trained
from dslbench.ops.threads import balanced_bounds, even_bounds, run_rows

# Multiplications below which handing the work to threads costs more than the work.
_SMALL = 1 << 18


def _parts(pairs: int, users: Any) -> int | None:
    """Ranges to cut the rows into: one for little work, else the default."""
    return 1 if pairs * users.shape[1] < _SMALL else None


def distinct(items: Tensor, n_items: int) -> tuple[Tensor, Tensor]:
    """The distinct values among items below `n_items`, ascending, and each item's place in them.

    (I,) int64, and int32 of the shape of `items`. No sorting: one flag for each possible item.
    """
    flags = torch.zeros(n_items, dtype=torch.bool, device=items.device)
    flags[items.reshape(-1)] = True
    places = flags.cumsum(0, dtype=torch.int32) - 1
    return flags.nonzero().squeeze(1), places[items]


def count_higher(scores: Tensor, others: Tensor) -> Tensor:
    """How many of each row's others (B, D) are above each of its scores (B, K); (B, K) int64.

    Written with tensors it is (B, K, D) flags, 164 MB for 100 items of 16,384 users against 100 others.
    """
    if scores.device.type != "cpu":
        return (others.unsqueeze(1) > scores.unsqueeze(2)).sum(dim=2)
    counts = torch.empty(scores.shape, dtype=torch.int64)
    run_rows(
        kernels.count_higher, even_bounds(len(scores), scores.shape[1] * others.shape[1]),
        scores.numpy(), others.numpy(), counts.numpy(),
    )  # fmt: skip
    return counts


class LookupScores(Op):
    """out[b, c] = users[b] . table[items[b, c]].

    Written with tensors, `table[items]` is a (B, C, d) copy: 200 MB for UltraGCN's 1,500 negatives
    of 512 users on Gowalla, twice. The kernels read the rows where they are. Backward, the places
    are first grouped by item, so that threads own ranges of items and every sum has one order.
    """

    def forward(self, users: Tensor, table: Tensor, items: Tensor) -> Tensor:
        """Scores, differentiable with respect to both float arguments.

        Args:
            users: (B, d) float32.
            table: (M, d) float32.
            items: (B, C) int32 rows of `table`, repeats allowed.

        Returns:
            (B, C).
        """
        if users.device.type != "cpu":
            return torch.bmm(table[items], users.unsqueeze(2)).squeeze(2)
        scores: Tensor = _LookupScores.apply(users, table, items)  # type: ignore[no-untyped-call]
        return scores

    def macs(self, users: Tensor, table: Tensor, items: Tensor) -> Macs:
        """The places where both rows of a pair are live, and those again for each gradient."""
        if live(users) == users.numel() and live(table) == table.numel():
            overlap = items.numel() * users.shape[1]
        else:
            with torch.no_grad():  # scores of the supports: exact, as they are small whole numbers
                users_live, table_live = (x.detach().ne(0).to(x.dtype) for x in (users, table))
                scores = self.forward(users_live, table_live, items)
                overlap = int(scores.sum(dtype=torch.float64))
        dense = 0
        if trained(users):
            dense += int(live_by_row(table)[items.long()].sum())
        if trained(table):
            dense += live(users) * items.shape[1]
        return Macs(overlap, overlap * (trained(users) + trained(table)), dense)


class _LookupScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, table: Tensor, items: Tensor) -> Tensor:
        users, table, items = users.contiguous(), table.contiguous(), items.contiguous()
        ctx.save_for_backward(users, table, items)
        out = torch.empty(tuple(items.shape), dtype=users.dtype)
        run_rows(
            lookup_kernels.gather_dots, even_bounds(len(users), parts=_parts(items.numel(), users)),
            users.detach().numpy(), table.detach().numpy(), items.numpy(), out.numpy(),
        )  # fmt: skip
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        users, table, items = (x.detach().numpy() for x in ctx.saved_tensors)
        weights = gradients[0].contiguous().numpy()
        on_users = on_table = None
        if ctx.needs_input_grad[0]:
            on_users = torch.empty(users.shape)
            run_rows(
                lookup_kernels.gather_sums, even_bounds(len(users), parts=_parts(items.size, users)),
                weights, table, items, on_users.numpy(),
            )  # fmt: skip
        if ctx.needs_input_grad[1]:
            on_table = torch.empty(table.shape)
            indptr = np.empty(len(table) + 1, dtype=np.int32)
            order = np.empty(items.size, dtype=np.int32)
            lookup_kernels.group_by_item(items.reshape(-1), len(table), indptr, order)
            run_rows(
                lookup_kernels.scatter_sums, balanced_bounds(indptr, _parts(items.size, users)),
                indptr, order,
                np.int32(items.shape[1]), weights.reshape(-1), users, on_table.numpy(),
            )  # fmt: skip
        return on_users, on_table, None
