"""Batch normalisation over rows against torch's, and its hyperbolic tangent against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import batch_norm

from dslbench.methods._sized import MapsRate
from dslbench.methods._sizes import SizeOptions
from dslbench.ops.affine import Affine
from dslbench.ops.row_norm import RowNorm
from dslbench.ops.row_norm_kernels import scale_rows
from dslbench.training.hooks import Loop
from training_helpers import checkerboard, train


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def norm_of(dim: int, bend: bool) -> RowNorm:
    norm = RowNorm(dim, scale=0.7, bend=bend)
    with torch.no_grad():
        norm.scale.add_(0.3 * drawn(dim, seed=5))
        norm.shift.add_(drawn(dim, seed=6))
    return norm


@pytest.mark.parametrize("bend", [False, True])
@pytest.mark.parametrize("shape", [(5, 1), (3, 64), (127, 5), (128, 64), (129, 33), (20_000, 64)])
def test_values_gradients_and_running_statistics_are_torchs(
    shape: tuple[int, int], bend: bool
) -> None:
    n, d = shape
    x = (3 * drawn(n, d) + 100 * drawn(1, d, seed=1)).requires_grad_()  # columns far from zero
    weight, norm = drawn(n, d, seed=2), norm_of(d, bend)
    y = norm(x)
    (y * weight).sum().backward()

    wide = x.detach().double().requires_grad_()
    scale, shift = (p.detach().double().requires_grad_() for p in (norm.scale, norm.shift))
    mean, variance = torch.zeros(d).double(), torch.ones(d).double()
    expected = batch_norm(wide, mean, variance, scale, shift, True, norm.momentum, norm.eps)
    expected = expected.tanh() if bend else expected
    (expected * weight).sum().backward()

    def close(found: Tensor | None, wanted: Tensor | None, unit: float) -> None:
        assert found is not None and wanted is not None
        assert float((found - wanted).abs().max()) <= unit * float(wanted.abs().max())

    close(y.detach(), expected.detach(), 2e-5)
    close(x.grad, wide.grad, 1e-4)
    close(norm.scale.grad, scale.grad, 1e-4)
    close(norm.shift.grad, shift.grad, 1e-4)
    close(norm.mean, mean, 1e-5)
    close(norm.variance, variance, 1e-4)


@pytest.mark.parametrize("bend", [False, True])
def test_bits_do_not_depend_on_the_number_of_threads(
    bend: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("DSLBENCH_THREADS", threads)
        x = drawn(20_000, 64).requires_grad_()
        y = norm_of(64, bend)(x)
        y.square().sum().backward()
        found.append((y.detach(), x.grad))
    (y1, g1), (y3, g3) = found
    assert torch.equal(y1, y3) and g1 is not None and g3 is not None and torch.equal(g1, g3)


def test_rows_that_stand_for_several_are_as_if_repeated() -> None:
    counts, x = torch.tensor([3, 1, 5, 2]), drawn(4, 6)
    once, often = norm_of(6, bend=True), norm_of(6, bend=True)
    y, expected = once(x, counts), often(x.repeat_interleave(counts, dim=0))
    torch.testing.assert_close(y.repeat_interleave(counts, dim=0), expected)
    torch.testing.assert_close(once.mean, often.mean)
    torch.testing.assert_close(once.variance, often.variance)


def test_in_ranking_and_for_one_row_the_running_statistics_count() -> None:
    norm = norm_of(5, bend=True)
    norm.estimate(drawn(5, seed=3), drawn(5, seed=4).square() + 0.1)
    x, before = drawn(1, 5), norm.mean.clone()
    factor, offset = norm.as_affine()
    expected = (x * factor + offset).tanh()
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(norm.eval()(x), expected)
    assert torch.equal(norm.mean, before)


def test_the_tangent_is_within_four_units_in_the_last_place() -> None:
    x = np.concatenate([np.linspace(-12, 12, 400_001), np.geomspace(1e-30, 1, 1001)])
    x = x.astype(np.float32)[:, None]
    y, one = np.empty_like(x), np.ones(1, dtype=np.float32)
    scale_rows(0, -(-len(x) // 128), x, one, 0 * one, True, y)
    expected = np.tanh(x.astype(np.float64))
    off = np.abs(y / np.where(expected == 0, 1, expected) - 1)[expected != 0]
    assert off.max() <= 4 * 2.0**-23
    special = np.array([[np.nan], [np.inf], [-np.inf]], dtype=np.float32)
    y = np.empty_like(special)
    scale_rows(0, 1, special, one, 0 * one, True, y)
    assert np.isnan(y[0, 0]) and y[1:, 0].tolist() == [1, -1]


def test_maps_start_without_favoured_directions() -> None:
    weight = Affine(4, 16, np.random.default_rng(0), isometric=True).weight.detach()
    torch.testing.assert_close(weight @ weight.T, 4 * torch.eye(4))


@pytest.mark.parametrize("method", ["autoemb", "esapn"])
def test_maps_learn_no_faster_than_their_rate(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, float]] = []
    begin = MapsRate.begin

    def noted(self: MapsRate, loop: Loop) -> None:
        begin(self, loop)
        names = {id(p): name for name, p in loop.model.named_parameters()}
        groups = loop.optimiser.param_groups
        seen.append({names[id(p)]: g["lr"] for g in groups for p in g["params"]})
        assert len(seen[-1]) == len(names)

    monkeypatch.setattr(MapsRate, "begin", noted)
    for lr in ("0.02", "0.0005"):
        train(checkerboard(), "lightgcn", method, 0.5, 2, f"lr={lr}")
    assert len(seen) == 4  # two phases each
    for rates, lr in zip(seen, (0.02, 0.02, 0.0005, 0.0005), strict=True):
        for name, rate in rates.items():
            assert rate == pytest.approx(min(lr, 1e-3) if ".maps." in name else lr)
    assert SizeOptions().maps_lr == 1e-3
