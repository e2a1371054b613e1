"""Counted MACs against closed forms, torch's own counter, and sums worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_array_equal
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dslbench import registry
from dslbench.backbones.base import Backbone
from dslbench.cost import counted
from dslbench.data.interactions import Interactions
from dslbench.errors import RunError
from dslbench.methods.dsl import DynamicSparseLearning
from dslbench.methods.rp import RandomPruning, RandomPruningOptions
from dslbench.ops.base import Macs, live, live_by_column, live_by_row
from dslbench.ops.bpr import BprLoss
from dslbench.ops.layers import Product
from dslbench.ops.lookup import LookupScores
from dslbench.ops.norms import Norm
from dslbench.ops.outer import OuterMap
from dslbench.ops.propagate import Propagate
from dslbench.ops.scores import PairScores
from dslbench.ops.sparse_input import SparseInput
from dslbench.training.hooks import Hooks
from dslbench.training.lab import Lab
from helpers import make_interactions
from training_helpers import BACKBONES, PAIRS, TWO_ROUNDS, train

DATA = make_interactions(40, 30)
N, M = 40, 30


def model_and_batch(backbone: str, sparsity: float, *settings: str) -> tuple[Backbone, Any, Any]:
    """An untrained model under random masks, a batch, and its hyper-parameters."""
    _, _, lab = train(DATA, backbone, "dense", 0, 1, *settings)
    method = RandomPruning(RandomPruningOptions(), sparsity)
    method.model = model = lab.build(method.make_table, pretrained=False)
    if sparsity:
        method.mask_at_random(lab.streams)
    batch = next(iter(model.sampler(DATA, lab.hyper, lab.streams, lab.device).epoch()))
    return model, batch, lab.hyper


def support(x: Tensor) -> np.ndarray[Any, Any]:
    return (x.detach().numpy() != 0).astype(np.int64)


def lightgcn(model: Any, batch: Any, h: Any, dense: bool) -> tuple[int, int, int]:
    """Spec: F = sum_j deg_j nnz_j + (L - 1) nnz(A) d + 2 B d, backward with 4 B d."""
    train_part = DATA.train.toarray()
    degrees = np.concatenate([train_part.sum(1), train_part.sum(0)])
    d, layers, b = h.embedding_size, h.layers, len(batch.users)
    first = int((degrees * support(model.embedding.full()).sum(1)).sum())
    whole = int(2 * DATA.train.nnz * d)
    forward = first + (layers - 1) * whole + 2 * b * d
    backward = (layers - 1) * whole + (whole if dense else first) + 4 * b * d
    return forward, backward, first + (layers - 1) * whole + N * M * d


def ultragcn(model: Any, batch: Any, h: Any, dense: bool) -> tuple[int, int, int]:
    u, i = support(model.user.full()), support(model.item.full())
    pairs = [
        (int(user), int(item))
        for user, p, near, ns in zip(
            batch.users, batch.positives, model.neighbours[batch.positives], batch.negatives,
            strict=True,
        )
        for item in (p, *near, *ns)
    ]  # fmt: skip
    overlap = sum(int((u[a] * i[b]).sum()) for a, b in pairs)
    norms = int(u.sum() + i.sum())
    grown = sum(int(u[a].sum() + i[b].sum()) for a, b in pairs)
    return overlap + norms, (grown if dense else 2 * overlap) + norms, int((u @ i.T).sum())


def neumf(model: Any, batch: Any, h: Any, dense: bool) -> tuple[int, int, int]:
    """Grouped batches of C items a user; the user half of the first layer once for all of them."""
    gu, gi, mu, mi = (support(getattr(model, f"{p}_{e}").full()) for p in ("gmf", "mlp")
                      for e in ("user", "item"))  # fmt: skip
    items = torch.cat([batch.positives[:, None], batch.negatives], dim=1).numpy()
    users, c = batch.users.numpy(), items.shape[1]
    flat = items.reshape(-1) if items.size < M else np.arange(M)
    l1, *upper = h.widths
    above = sum(a * b for a, b in zip((l1, *upper), (*upper, 1), strict=True))
    overlap = sum(
        int((gu[a] * gi[b]).sum()) for a, bs in zip(users, items, strict=True) for b in bs
    )
    first = (int(mu[users].sum()) + int(mi[flat].sum())) * l1
    size = items.size * above
    grads_of_gmf = int(gi[items].sum()) + c * int(gu[users].sum())
    grads_of_first = first + (len(users) + len(flat)) * mu.shape[1] * l1
    backward = grads_of_gmf + grads_of_first if dense else 2 * (overlap + first)
    infer = int((gu @ gi.T).sum()) + int(mu.sum() + mi.sum()) * l1 + N * M * above
    return overlap + first + size, backward + 2 * size, infer


def convncf(model: Any, batch: Any, h: Any, dense: bool) -> tuple[int, int, int]:
    u, i = support(model.user.full()), support(model.item.full())
    d, c = h.embedding_size, h.channels
    users = batch.users.numpy()
    pairs = [*zip(users, batch.positives.numpy(), strict=True)]
    pairs += [*zip(users, batch.negatives.numpy()[:, 0], strict=True)]
    sizes = [(d >> k) ** 2 for k in range(1, d.bit_length())]  # cells after each convolution
    tower = c + sum(cells * 4 * c * c for cells in sizes[1:])
    outer = sum(int(u[a].sum() * i[b].sum()) for a, b in pairs)
    rest = len(pairs) * tower
    ends = sum(d * int(u[a].sum() + i[b].sum()) for a, b in pairs)
    # conv1: weights for live inputs, and gradients for live (or, growing, for all) inputs
    grown = ends + outer * c + len(pairs) * d * d * c
    backward = (grown if dense else 2 * outer * (1 + c)) + 2 * rest
    infer = int(u.sum() * i.sum()) * (1 + c) + N * M * tower
    return outer * (1 + c) + rest, backward, infer


def autoencoder(encoder: Tensor, decoder: Tensor, batch: Any, middle: int, dense: bool) -> Any:
    e, o = support(encoder), support(decoder)
    users, known = len(batch.users), batch.items.numpy()
    first, output = int(e[known].sum()), users * int(o.sum())
    backward = (len(known) * e.shape[1] if dense else first) + 2 * users * middle + output
    backward += users * o.size if dense else output
    return first + users * middle + output, backward, int(e[DATA.train.indices].sum())


def cdae(model: Any, batch: Any, h: Any, dense: bool) -> tuple[int, int, int]:
    forward, backward, first = autoencoder(
        model.encoder.full(), model.decoder.full(), batch, 0, dense
    )
    norms = sum(int(support(t.full()).sum()) for t in (model.user, model.encoder))
    infer = first + N * int(support(model.decoder.full()).sum())
    return forward + norms, backward + norms, infer


def multvae(model: Any, batch: Any, h: Any, dense: bool) -> tuple[int, int, int]:
    k, z = h.embedding_size, h.latent
    forward, backward, first = autoencoder(
        model.encoder.full(), model.decoder.full(), batch, 3 * k * z, dense
    )
    infer = first + N * (3 * k * z + int(support(model.decoder.full()).sum()))
    return forward, backward, infer


FORMS = {
    "lightgcn": (lightgcn, []),
    "ultragcn": (ultragcn, ["gamma=0.1"]),
    "neumf": (neumf, ["loss=balanced", "pretrain_epochs=0"]),
    "convncf": (convncf, ["pretrain_epochs=0"]),
    "cdae": (cdae, ["dropout=0", "reg=0.1"]),
    "multvae": (multvae, ["dropout=0", "latent=5"]),
}


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("backbone", FORMS)
def test_totals_equal_the_closed_form(backbone: str, sparsity: float) -> None:
    form, settings = FORMS[backbone]
    model, batch, hyper = model_and_batch(backbone, sparsity, *settings)
    ops = counted.ops_of(model)
    loss, macs = counted.count(lambda: model.loss(batch), ops)
    assert torch.equal(loss, model.loss(batch))
    forward, backward, infer = form(model, batch, hyper, False)
    assert macs == Macs(forward, backward, form(model, batch, hyper, True)[1])
    assert counted.full_ranking(model.eval(), N, M) == (infer, N)


# torch's counter sees matrix products, in either direction. It does not see the compiled kernels
# (propagation, look-up scores, outer products, sparse input), products written as sums (pair
# scores, norms), nor products of a matrix and a vector (NeuMF's last layer).
UNSEEN = (Propagate, LookupScores, OuterMap, SparseInput, PairScores, BprLoss, Norm)


@pytest.mark.parametrize("backbone", FORMS)
def test_dense_products_agree_with_torchs_counter(backbone: str) -> None:
    model, batch, _ = model_and_batch(backbone, 0.0, *FORMS[backbone][1])
    total = 0

    def add(op: Any, inputs: Any, output: Any) -> None:
        nonlocal total
        if not isinstance(op, UNSEEN) and inputs[1].dim() == 2:
            total += sum(op.macs(*inputs)[:2])

    for op in counted.ops_of(model):
        op.register_forward_hook(add)
    with FlopCounterMode(display=False) as counter:
        model.loss(batch).backward()  # type: ignore[no-untyped-call]
    assert counter.get_total_flops() / 2 == total
    assert (total > 0) == (backbone not in ("lightgcn", "ultragcn"))


def test_a_perceptron_agrees_with_torchs_counter_in_both_directions() -> None:
    first, second = Product(), Product()
    x = torch.randn(6, 5)
    v, w = torch.randn(4, 5, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        loss, macs = counted.count(lambda: second(first(x, v).relu(), w).sum(), [first, second])
        loss.backward()
    assert macs.forward + macs.backward == counter.get_total_flops() / 2
    assert macs.dense_backward == macs.backward  # nothing is pruned


def test_a_frozen_argument_has_no_backward_pass() -> None:
    a, b = torch.ones(3, 4), torch.ones(3, 4, requires_grad=True)
    op = PairScores()
    assert counted.count(lambda: op(a, b), [op])[1] == Macs(12, 12, 12)
    with torch.no_grad():
        assert counted.count(lambda: op(a, b), [op])[1] == Macs(12, 0, 0)


def test_lookup_scores_count_the_overlap_of_supports() -> None:
    users = torch.tensor([[1.0, 0, 2], [0, 0, 3]], requires_grad=True)
    table = torch.tensor([[1.0, 1, 0], [0, 5, 0], [2, 0, 2]], requires_grad=True)
    items = torch.tensor([[0, 2], [1, 2]], dtype=torch.int32)
    op = LookupScores()
    # Overlaps 1, 2, 0, 1. Growing: live entries of the items' rows 2 + 2 + 1 + 2, of the users' 2 (2 + 1).
    assert counted.count(lambda: op(users, table, items), [op])[1] == Macs(4, 8, 7 + 6)


def state(model: nn.Module) -> list[Any]:
    return [
        [(m.training, len(m._forward_hooks), list(m._buffers)) for m in model.modules()],
        list(model.state_dict()), torch.get_rng_state().tolist(),
    ]  # fmt: skip


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_counting_leaves_nothing_behind(backbone: str, mode: bool, fails: bool) -> None:
    model, batch, _ = model_and_batch(backbone, 0.5)
    model.train(mode)
    before, values = state(model), [x.clone() for x in model.parameters()]

    def call() -> None:
        model.loss(batch)
        if fails:
            raise ValueError("in the middle")

    if fails:
        with pytest.raises(ValueError, match="in the middle"):
            counted.count(call, counted.ops_of(model))
    else:
        counted.count(call, counted.ops_of(model))
    assert state(model) == before
    assert all(torch.equal(a, b) for a, b in zip(values, model.parameters(), strict=True))
    assert not nn.modules.module._global_forward_hooks


def test_what_has_no_rule_is_an_error_that_names_it() -> None:
    layer, x = nn.Linear(3, 2), torch.ones(1, 3)
    with pytest.raises(
        RunError, match=r"how many MACs Linear \(addmm at test_counted\.py, line \d+\) takes"
    ):
        counted.count(lambda: layer(x), [])
    with pytest.raises(RunError, match="how many MACs MultiheadAttention "):
        attention = nn.MultiheadAttention(4, 2)
        counted.count(lambda: attention(*[torch.ones(2, 1, 4)] * 3), [])
    with pytest.raises(RunError, match="PairScores runs outside the model"):
        counted.count(lambda: PairScores()(x, x), [])
    assert counted.count(lambda: nn.Sequential(nn.Dropout(), nn.ReLU())(x), [])[1] == Macs(0)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: x @ x.T, "mm"), (lambda x: torch.einsum("ij,kj->ik", x, x), "bmm"),
        (lambda x: torch.nn.functional.conv1d(x[None], x[None]), "convolution"),
        (lambda x: torch.cdist(x, x), "_cdist_forward"), (lambda x: x[0] @ x[1], "dot"),
    ],
)  # fmt: skip
def test_a_product_outside_an_operation_is_refused_with_its_line(
    call: Callable[[Tensor], Tensor], name: str
) -> None:
    class Hidden(Hooks):
        def extra_loss(self, loop: Any, batch: Any) -> Tensor:
            return call(loop.model.tables()["embedding"].rows(batch.users[:3])).sum()

    _, _, lab = train(DATA, "lightgcn", "dense", 0, 1)
    with pytest.raises(RunError, match=rf"MACs {name} at test_counted\.py, line \d+ takes"):
        lab.fit(lab.build(), "student", Hidden())


def test_what_a_methods_own_term_takes_is_counted() -> None:
    class Distils(Hooks):
        def __init__(self, teacher: Backbone) -> None:
            self.teacher, self.pairs = teacher.requires_grad_(False), PairScores()

        def extra_loss(self, loop: Any, batch: Any) -> Tensor:
            rows = self.teacher.tables()["embedding"].rows(batch.users)
            students = loop.model.tables()["embedding"].rows(batch.users)
            return self.pairs(rows, students).sum()

    _, _, lab = train(DATA, "lightgcn", "dense", 0, 1)
    plain = lab.phases[-1].ledger
    lab.fit(lab.build(), "student", Distils(lab.build()))
    extra = 2 * DATA.train.nnz * 7  # forward, and backward for the student alone
    assert lab.phases[-1].ledger.train_macs == plain.train_macs + extra


def steps_of(data: Interactions, batch_size: int) -> list[int]:
    whole, left = divmod(int(data.train.nnz), batch_size)
    return [batch_size] * whole + [left] * (left > 0)


def lightgcn_step(live: np.ndarray[Any, Any], size: int, dense: bool = False) -> int:
    train_part = DATA.train.toarray()
    degrees = np.concatenate([train_part.sum(1), train_part.sum(0)])
    first, whole = int((degrees * live.sum(1)).sum()), 2 * int(DATA.train.nnz) * 7
    return first + (whole if dense else first) + 4 * whole + 6 * size * 7


@pytest.fixture
def live_at_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[np.ndarray[Any, Any]]]:
    """Supports of the table when each epoch begins (and its first batch is counted)."""
    found: list[np.ndarray[Any, Any]] = []
    original = Lab._epoch

    def watched(self: Lab, loop: Any, *args: Any) -> float:
        found.append(support(loop.model.tables()["embedding"].full()))
        return original(self, loop, *args)

    monkeypatch.setattr(Lab, "_epoch", watched)
    return found


@pytest.mark.parametrize("method", ["dense", "rp", "omp", "lth_mrs"])
def test_the_ledger_adds_up_phases(method: str, live_at_start: list[Any]) -> None:
    _, _, lab = train(DATA, "lightgcn", method, 0.5, 2, *TWO_ROUNDS)
    sizes = steps_of(DATA, 32)
    expected = [
        sum(lightgcn_step(live, size) for live in pair for size in sizes)
        for pair in zip(live_at_start[::2], live_at_start[1::2], strict=True)
    ]
    assert [phase.ledger.train_macs for phase in lab.phases] == expected
    assert all(phase.ledger.dense_steps == 0 for phase in lab.phases)
    assert {phase.ledger.steps for phase in lab.phases} == {2 * len(sizes)}
    hops = 3 * 2 * int(DATA.train.nnz) * 7  # evaluations of dense rounds: propagation and scores
    if method == "dense":
        users = int((np.diff(DATA.valid.indptr) > 0).sum())
        assert lab.phases[0].ledger.eval_macs == 2 * (hops + users * M * 7)


def test_exploring_iterations_have_dense_gradients(
    live_at_start: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    live_at_end: list[Any] = []
    original = DynamicSparseLearning.before_step

    def watched(self: Any, loop: Any) -> None:
        original(self, loop)
        if self.dense_gradient(loop):
            live_at_end.append(support(loop.model.tables()["embedding"].full()))

    monkeypatch.setattr(DynamicSparseLearning, "before_step", watched)
    sizes = steps_of(DATA, 32)  # an exploration in the last, smaller batch of each epoch
    _, _, lab = train(DATA, "lightgcn", "dsl", 0.5, 2, f"dsl.delta_t={len(sizes)}")
    assert len(live_at_end) == lab.phases[0].ledger.dense_steps == 2
    assert lab.phases[0].ledger.train_macs == sum(
        sum(lightgcn_step(first, size) for size in sizes[:-1])
        + lightgcn_step(last, sizes[-1], dense=True)
        for first, last in zip(live_at_start, live_at_end, strict=True)
    )


def test_released_dsl_moves_moments_off_the_mask_and_pays_for_it() -> None:
    _, _, lab = train(DATA, "lightgcn", "dsl", 0.5, 1, "dsl.variant=official")
    ledger = lab.phases[0].ledger
    assert ledger.dense_steps == ledger.steps


def test_steps_between_counts_take_the_last_one() -> None:
    ledger, op = counted.Ledger(), PairScores()

    def step(size: int, **how: bool) -> None:
        rows = torch.ones(size, 1)
        ledger.step(lambda: op(rows, rows), [op], dense=False, **how)

    step(5, count_it=True, last=False)
    step(9, count_it=False, last=False)
    step(2, count_it=True, last=True)
    step(9, count_it=False, last=False)
    step(9, count_it=False, last=True)
    assert ledger.summary() == {
        "steps": 5, "dense_gradient_steps": 0, "macs_per_step": 19 / 5, "train_macs": 19,
        "eval_macs": 0,
    }  # fmt: skip


@pytest.mark.parametrize(("backbone", "method"), PAIRS)
def test_every_method_has_its_bill(backbone: str, method: str) -> None:
    model, _, lab = train(DATA, backbone, method, 0.5, 1, *TWO_ROUNDS)
    for phase in lab.phases:
        assert phase.ledger.steps == phase.steps
        assert phase.ledger.train_macs > 0 or not phase.steps  # vectors of look-up models are free
        assert (phase.ledger.eval_macs > 0) == (phase.eval_seconds > 0)
    assert counted.full_ranking(model.eval(), N, M)[0] > 0


def test_pretraining_is_on_the_bill() -> None:
    _, _, lab = train(DATA, "neumf", "dense", 0, 1, "pretrain_epochs=1")
    assert [phase.name for phase in lab.phases] == ["pretrain GMF", "pretrain MLP", "train"]
    gmf, mlp, both = (phase.ledger.train_macs for phase in lab.phases)
    assert gmf > 0 and mlp > 0 and gmf + mlp == both


def test_some_users_stand_for_all_where_a_ranking_is_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, _, _ = model_and_batch("lightgcn", 0.0)
    whole, _ = counted.full_ranking(model.eval(), N, M)
    monkeypatch.setattr(counted, "RANKING_MACS", 10 * M * 7)
    assert counted.full_ranking(model.eval(), N, M) == (whole, 10)


def test_the_fork_of_thop_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert counted.engine().startswith("thop 0.1")
    monkeypatch.setattr(counted, "version", lambda name: "2.0")
    with pytest.raises(RunError, match="not counted with ultralytics-thop"):
        counted.engine()

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(counted, "version", absent)
    with pytest.raises(RunError, match="cannot be imported"):
        counted.engine()


def test_every_backbone_has_a_closed_form() -> None:
    assert set(FORMS) == set(registry.names("backbone"))


@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=70),
        elements=st.sampled_from([0.0, -0.0, 1.0, -2.5, 1e-45, np.nan, np.inf]),
    ),
    st.booleans(),
)
def test_live_entries_are_those_that_numpy_counts(x: np.ndarray, turned: bool) -> None:
    tensor = torch.from_numpy(x.T if turned else x)
    assert live(tensor) == np.count_nonzero(x)
    assert_array_equal(live_by_row(tensor), np.count_nonzero(x.T if turned else x, axis=1))
    assert live_by_row(tensor).dtype == torch.int64
    if x.size:
        assert_array_equal(live_by_column(tensor), np.count_nonzero(tensor.numpy(), axis=0))


def test_counting_does_not_load_torchs_compiler() -> None:
    code = (
        "import sys, torch; from dslbench.cost import counted; "
        "counted.count(lambda: torch.ones(2) + 1, []); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
