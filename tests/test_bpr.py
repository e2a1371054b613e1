"""The pairwise loss against its plain formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dslbench.ops.bpr import BprLoss
from dslbench.ops.scores import PairScores


def plain(rows: torch.Tensor, own: torch.Tensor, count: int, reg: float) -> torch.Tensor:
    users, positives, negatives = rows[: 3 * count].double().view(3, count, -1)
    margins = (users * negatives).sum(1) - (users * positives).sum(1)
    losses = margins.clamp(min=0) + torch.log1p(torch.exp(-margins.abs()))
    return losses.mean() + reg / (2 * count) * own[: 3 * count].double().square().sum()


@given(
    seed=st.integers(0, 10_000), count=st.integers(1, 40), d=st.sampled_from([1, 3, 16, 64]),
    more=st.sampled_from([0, 5]), size=st.sampled_from([0.1, 1.0, 30.0]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_loss_and_gradients_are_those_of_the_formula(
    seed: int, count: int, d: int, more: int, size: float
) -> None:
    torch.manual_seed(seed)
    tensors = [size * torch.randn(3 * count + more, d) for _ in range(2)]
    found = []
    for formula in (False, True):
        rows, own = (x.clone().requires_grad_() for x in tensors)
        loss = plain(rows, own, count, 0.3) if formula else BprLoss()(rows, own, count, 0.3)[0]
        (2.5 * loss).backward()
        found.append((loss.float(), rows.grad, own.grad))
    # Large scores that cancel leave a margin of few digits, and with it a slope of as few.
    of_margin = 2**-24 * size**2 * d
    atol = 1e-5 * size + 2.5 / count * of_margin * size
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=atol)
    assert found[0][1] is not None and not found[0][1][3 * count :].any()


def test_each_examples_loss_by_hand() -> None:
    rows = torch.tensor([[1.0, 0], [0, 1], [2, 0], [0, 0], [0, 5], [0, 3]])
    loss, losses = BprLoss()(rows, torch.zeros(6, 2), 2, 1.0)
    # User 0 likes the positive by 2 more; user 1 the negative by 3.
    expected = torch.nn.functional.softplus(torch.tensor([-2.0, 3.0]))
    torch.testing.assert_close(losses, expected)
    assert float(loss) == pytest.approx(float(expected.mean())) and not losses.requires_grad


def test_what_is_not_a_number_stays_so() -> None:
    for bad in (torch.nan, torch.inf):
        rows = torch.full((3, 2), bad)
        assert not BprLoss()(rows, torch.zeros(3, 2), 1, 0.0)[0].isfinite()


def test_cost_is_that_of_two_scores_an_example() -> None:
    torch.manual_seed(0)
    rows = (torch.randn(15, 6) * (torch.rand(15, 6) < 0.5)).requires_grad_()
    users, positives, negatives = rows.view(3, 5, 6)
    parts = [PairScores().macs(users, x) for x in (positives, negatives)]
    found = BprLoss().macs(rows, rows.detach(), 5, 0.1)
    assert found == tuple(a + b for a, b in zip(*parts, strict=True))


def plain_shared(
    rows: torch.Tensor, own: torch.Tensor, count: int, reg: float, known: torch.Tensor
) -> torch.Tensor:
    n = known.shape[1]
    users, positives, negatives = rows[: 3 * count].double().view(3, count, -1)
    losses = []
    for b in range(count):
        block = range(b // n * n, min((b // n + 1) * n, count))
        each = [
            torch.nn.functional.softplus(users[b] @ negatives[other] - users[b] @ positives[b])
            for t, other in enumerate(block)
            if not known[b, t]
        ]
        losses.append(torch.stack(each).mean())
    norms = own[: 3 * count].double().square().sum()
    return torch.stack(losses).mean() + reg / (2 * count) * norms


@given(
    seed=st.integers(0, 10_000), count=st.integers(1, 20), d=st.sampled_from([1, 3, 16]),
    n=st.integers(1, 8), more=st.sampled_from([0, 5]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_shared_negatives_are_ranked_as_ones_own(
    seed: int, count: int, d: int, n: int, more: int
) -> None:
    torch.manual_seed(seed)
    tensors = [torch.randn(3 * count + more, d) for _ in range(2)]
    known = torch.rand(count, n) < 0.3
    known[torch.arange(count), torch.arange(count) % n] = False  # one's own is never known
    found = []
    for formula in (plain_shared, BprLoss()):
        rows, own = (x.clone().requires_grad_() for x in tensors)
        loss = formula(rows, own, count, 0.3, known)
        loss = loss if isinstance(loss, torch.Tensor) else loss[0]
        (2.5 * loss).backward()  # type: ignore[no-untyped-call]
        found.append((loss.float(), rows.grad, own.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_one_shared_negative_is_ones_own() -> None:
    torch.manual_seed(0)
    rows, own = torch.randn(30, 4), torch.randn(30, 4)
    shared = BprLoss()(rows, own, 10, 0.1, torch.zeros(10, 1, dtype=torch.bool))
    for a, b in zip(shared, BprLoss()(rows, own, 10, 0.1), strict=True):
        torch.testing.assert_close(a, b)


def test_cost_of_shared_negatives_is_that_of_their_scores() -> None:
    torch.manual_seed(0)
    rows = (torch.randn(15, 6) * (torch.rand(15, 6) < 0.5)).requires_grad_()
    users, positives, negatives = rows.view(3, 5, 6)
    parts = [PairScores().macs(users, positives)]
    for block in (range(3), range(3, 5)):
        parts += [PairScores().macs(users[[b]], negatives[[j]]) for b in block for j in block]
    found = BprLoss().macs(rows, rows.detach(), 5, 0.1, torch.zeros(5, 3, dtype=torch.bool))
    assert found[:2] == tuple(sum(part) for part in zip(*parts, strict=True))[:2]


@pytest.mark.parametrize(
    ("count", "n", "threads"),
    [
        (199, 64, 2),
        (2048, 50, 2),
        (4010, 10, 2),
        (1496, 64, 3),
        (2000, 64, 3),
        (1253, 64, 4),
        (1500, 64, 5),
    ],
)
def test_the_number_of_threads_moves_no_bit_of_shared_negatives(
    count: int, n: int, threads: int
) -> None:
    """torch divides the product at the end of a batch, and functions of entries within a vector."""
    torch.manual_seed(count)
    rows, own = (torch.randn(3 * count, 64, requires_grad=True) for _ in range(2))
    known = torch.rand(count, n) < 0.1
    known[torch.arange(count), torch.arange(count) % n] = False  # one's own is never known
    found, before = [], torch.get_num_threads()
    for number in (1, threads):
        torch.set_num_threads(number)
        rows.grad = own.grad = None
        loss, losses = BprLoss()(rows, own, count, 1e-3, known)
        loss.backward()
        assert torch.get_num_threads() == number
        assert rows.grad is not None and own.grad is not None
        found.append((losses, rows.grad.clone(), own.grad.clone()))
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
