"""RKD and TKD: their losses against slow versions, exact sizes, and where the teacher comes from."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from cli_helpers import run as dslbench
from dslbench import artefact, registry
from dslbench import data as datasets
from dslbench.backbones.base import narrow
from dslbench.data.interactions import Interactions, pairs_to_csr
from dslbench.errors import RunError, UnsuitableError, UsageError
from dslbench.evaluation.ranking import Ranker
from dslbench.methods._student import compare_sizes, entities, learning_users
from dslbench.methods.rkd import RankingDistillation, discrepancy, top_lists
from dslbench.methods.tkd import Grouping, TopologyOptions
from dslbench.ops.lookup import count_higher, distinct
from dslbench.ops.topology import GroupTopologyDistance, MixedMaps, TopologyDistance
from dslbench.runs import assemble, stock, store
from dslbench.runs.assemble import rebuild
from dslbench.runs.worker.run import make_run
from dslbench.sampling.pairs import Pointwise
from dslbench.sampling.triples import Triples
from dslbench.spec import RunSpec, resolve
from dslbench.tables import TableSpec
from dslbench.tables.projected import ProjectedTable
from dslbench.tables.spec import normal
from dslbench.training.hooks import Phase
from dslbench.training.lab import Lab
from helpers import make_interactions
from training_helpers import BACKBONES, SETTINGS, parameters, train

CPU = torch.device("cpu")
SMALL = ["preset=official", "embedding_size=8", "batch_size=64"]


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(
        np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    ).requires_grad_()


def cosines(a: Any, b: Any) -> Any:
    """(n, m) cosine similarities, in double precision."""
    a, b = (
        np.asarray(x.detach() if isinstance(x, Tensor) else x, dtype=np.float64) for x in (a, b)
    )
    return a @ b.T / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))


# --- what the two methods compute -------------------------------------------------------------


def test_topology_distance_is_the_sum_over_all_pairs() -> None:
    teacher, student = rows(40, 9, 1).detach(), rows(40, 5, 2)
    found = TopologyDistance()(teacher, student)
    expected = np.square(cosines(teacher, teacher) - cosines(student, student)).sum()
    assert_allclose(float(found.detach()), expected, rtol=1e-6)
    # The gradient is that of the (b, b) matrix.
    (gradient,) = torch.autograd.grad(found, student)
    unit = [torch.nn.functional.normalize(x, dim=1) for x in (teacher, student)]
    slow = (unit[0] @ unit[0].T - unit[1] @ unit[1].T).square().sum()
    (of_slow,) = torch.autograd.grad(slow, student)
    assert_allclose(gradient.numpy(), of_slow.numpy(), rtol=1e-3, atol=1e-4)


def test_a_student_equal_to_its_teacher_is_at_distance_zero() -> None:
    same = rows(30, 6)
    assert float(TopologyDistance()(same.detach(), same).detach()) == 0
    turned = same.detach() @ torch.linalg.qr(rows(6, 6, 5).detach())[0] * 3  # rotated and scaled
    assert float(TopologyDistance()(same.detach(), turned)) == pytest.approx(0, abs=1e-3)


def test_zero_rows_give_finite_topology_gradients() -> None:
    student = torch.zeros(4, 3, requires_grad=True)
    TopologyDistance()(rows(4, 5).detach(), student).backward()
    assert student.grad is not None and student.grad.isfinite().all()


def test_group_distance_against_a_loop_over_pairs() -> None:
    teacher, student = rows(25, 7, 3).detach(), rows(25, 4, 4)
    groups = torch.from_numpy(np.random.default_rng(5).integers(0, 6, 25) * 2)
    found = float(GroupTopologyDistance()(teacher, student, groups).detach())
    t, s = cosines(teacher, teacher), cosines(student, student)
    expected = sum(
        (t[i, j] - s[i, j]) ** 2
        for i in range(25) for j in range(25)
        if groups[i] == groups[j] and t[i, j] > 0
    )  # fmt: skip
    for g in groups.unique():
        means = [x.detach()[groups == g].mean(dim=0, keepdim=True) for x in (teacher, student)]
        expected += np.square(cosines(means[0], teacher) - cosines(means[1], student)).sum()
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tau", [1.0, 1e-3, 1e-10])
def test_mixed_maps_are_one_network_for_each_group(tau: float) -> None:
    op = MixedMaps(3, 4, 6, np.random.default_rng(0))
    x, logits = rows(5, 4), rows(5, 3, 1)
    z = (logits / tau).softmax(dim=1)
    total = torch.zeros(5, 6)
    for k in range(3):
        hidden = (x @ op.first[k] + op.first_bias[k]).relu()
        total = total + z[:, k : k + 1] * (hidden @ op.second[k] + op.second_bias[k])
    found = op(x, z)
    assert torch.allclose(found, total, atol=1e-6)
    of = [x, logits, *op.parameters()]
    slow = torch.autograd.grad(total.square().sum(), of, retain_graph=True)
    for a, b in zip(torch.autograd.grad(found.square().sum(), of), slow, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_htd_adds_topology_and_assignment() -> None:
    options = TopologyOptions(groups=3, balance=0.25)
    teacher, student = [rows(8, 6), rows(9, 6, 1)], [rows(8, 2, 2), rows(9, 2, 3)]
    teacher = [t.detach() for t in teacher]
    grouping = Grouping(options, 6, 2, np.random.default_rng(7))
    found = float(grouping(teacher, student, 0.5).detach())
    rng = np.random.default_rng(7)
    same = Grouping(options, 6, 2, rng)  # leaves the stream where the noise begins
    assignment, groups = 0.0, []
    for side in range(2):
        logits = same.assign[side](teacher[side]).detach()
        groups.append(logits.argmax(dim=1) + 3 * side)
        noisy = (logits + torch.from_numpy(rng.gumbel(size=tuple(logits.shape)).astype("f4"))) / 0.5
        z = (noisy - noisy.logsumexp(dim=1, keepdim=True)).exp()
        restored = same.restore[side](student[side], z).detach()
        assignment += float((teacher[side] - restored).square().sum())
    topology = GroupTopologyDistance()(torch.cat(teacher), torch.cat(student), torch.cat(groups))
    assert found == pytest.approx(0.25 * float(topology.detach()) + 0.75 * assignment, rel=1e-5)


def test_discrepancy_weights_by_hand() -> None:
    # Of four others, 0, 2 and 4 score higher than the items: ranks 0, 50 and 100 of 101 items.
    scores = torch.tensor([[9.0, 2.5, 0.0]])
    others = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    expected = [[0.0, math.tanh(0.01 * (50 - 1)), math.tanh(0.01 * (100 - 2))]]
    assert_allclose(discrepancy(scores, others, 101, 0.01).numpy(), expected, rtol=1e-6)
    assert float(discrepancy(torch.tensor([[9.0, 9.0]]), others, 101, 0.1).sum()) == 0  # found


@pytest.mark.parametrize("rows", [1, 3000])
def test_higher_scores_are_counted_as_with_tensors(rows: int) -> None:
    rng = np.random.default_rng(5)
    scores, others = (
        torch.from_numpy(rng.integers(-4, 5, (rows, n)).astype("f4")) for n in (7, 37)
    )
    scores[0, :3] = torch.tensor([math.inf, -math.inf, math.nan])
    others[0, :3] = torch.tensor([math.inf, -math.inf, math.nan])
    found = count_higher(scores, others)
    assert torch.equal(found, (others.unsqueeze(1) > scores.unsqueeze(2)).sum(dim=2))


def test_distinct_finds_each_items_place() -> None:
    items = torch.tensor([[7, 2, 7], [5, 2, 0]])
    found, places = distinct(items, 9)
    assert found.tolist() == [0, 2, 5, 7]
    assert torch.equal(found[places], items)


def test_entities_and_users_of_batches() -> None:
    ids = torch.tensor
    users, items = entities(Triples(ids([4, 1, 4]), ids([3, 3, 2]), ids([9, 2, 0])))
    assert users.tolist() == [1, 4] and items.tolist() == [0, 2, 3, 9]
    batch = Pointwise(ids([4, 1, 1]), ids([3, 3, 2]), torch.tensor([1.0, 0.0, 1.0]))
    assert learning_users(batch).tolist() == [4, 1]


# --- a whole training ---------------------------------------------------------------------------


def lab_with_teacher(data: Interactions, spec: RunSpec) -> tuple[Lab, Any]:
    lab = assemble.make_lab(spec, data, CPU)
    dense = Lab(data, lab.backbone, lab.full_hyper, epochs=spec.epochs, seed=spec.seed)
    teacher = dense.build()
    dense.fit(teacher)
    lab.find_teacher = lambda: (teacher, Phase("teacher", spec.epochs))
    return lab, teacher


def spec_of(
    method: str, backbone: str = "lightgcn", sparsity: float = 0.5, *settings: str, epochs: int = 3
) -> RunSpec:
    return resolve(
        dataset="toy", backbone=backbone, method=method, sparsity=sparsity, seed=0, epochs=epochs,
        settings=[*SMALL, *SETTINGS["small"].get(backbone, []), *settings],
    )  # fmt: skip


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    ("method", "off"),
    [
        ("rkd", ["rkd.alpha=0", "rkd.static_epochs=1"]),
        ("tkd", ["tkd.weight=0"]),
        ("tkd", ["tkd.weight=0", "tkd.form=htd", "tkd.max_entities=20"]),
    ],
)
def test_without_weight_the_student_is_trained_as_if_alone(
    interactions: Interactions, backbone: str, method: str, off: list[str]
) -> None:
    spec = spec_of(method, backbone, 0.5, *off)
    lab, _ = lab_with_teacher(interactions, spec)
    kind = registry.method(method)
    student = kind(kind.options_type.model_validate(spec.options), 0.5).run(lab)
    alone = Lab(interactions, lab.backbone, lab.hyper, epochs=spec.epochs, seed=0)
    plain = alone.build()
    alone.fit(plain)
    assert all(torch.equal(p, parameters(plain)[n]) for n, p in parameters(student).items())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_vectors_and_scores_of_pairs_are_those_of_the_ranking(
    interactions: Interactions, backbone: str
) -> None:
    model, _, lab = train(interactions, backbone, "dense", 0.0)
    users, items = torch.arange(6), torch.arange(24).view(6, 4)
    model.eval()
    expected = model.candidate_scorer()(users, items)
    assert torch.allclose(model.pair_scores(users, items), expected, atol=1e-5)
    batch = next(iter(model.sampler(lab.data, lab.hyper, lab.streams, CPU).epoch()))
    model.train()
    loss, scores, apart = model.loss_and_scores(batch, users, items[:, :1], items[:, 1:])
    assert apart is not None and not apart.requires_grad and scores.requires_grad
    assert torch.allclose(torch.cat([scores, apart], dim=1), expected, atol=1e-5)
    assert model.training
    of_loss = [loss, model.loss_and_vectors(batch, users, items[0])[0]]
    if backbone != "multvae":  # its weight of the KL term moves with each loss
        assert all(torch.equal(x, model.loss(batch)) for x in of_loss)
    if backbone in ("lightgcn", "ultragcn"):
        u, v = model.vectors(users, torch.arange(24))
        assert torch.allclose((u @ v.T).gather(1, items), expected, atol=1e-5)


def test_the_ranking_term_against_a_loop(interactions: Interactions) -> None:
    spec = spec_of("rkd", "ultragcn", 0.5, "rkd.k=4", "rkd.decay=2", "rkd.alpha=0.3")
    lab, teacher = lab_with_teacher(interactions, spec)
    method = RankingDistillation(
        registry.method("rkd").options_type.model_validate(spec.options), 0.5
    )
    method.run(lab)
    model = lab.build()
    batch = next(iter(model.sampler(interactions, lab.hyper, lab.streams, CPU).epoch()))
    loop: Any = type("Loop", (), {"model": model, "epoch": 1, "note": lambda *a: None})
    with torch.no_grad():
        found = float(method.loss(loop, batch)) - float(model.loss(batch))
    scores, of_teacher = model.scorer()(torch.arange(40)), teacher.scorer()(torch.arange(40))
    weights = np.exp(-np.arange(1, 5) / 2)
    weights /= weights.sum()
    expected = 0.0
    for user in batch.users.tolist():
        known = set(interactions.train[user].indices.tolist())
        best = [i for i in of_teacher[user].argsort(descending=True).tolist() if i not in known]
        for weight, item in zip(weights, best[:4], strict=True):
            expected += weight * math.log1p(math.exp(-float(scores[user, item])))
    assert found == pytest.approx(0.3 * expected, rel=1e-3)  # UltraGCN's loss is a sum, too


def test_lists_hold_no_training_item_and_weights_sum_to_one() -> None:
    data = make_interactions(30, 20, density=0.6)
    everything = pairs_to_csr(*np.nonzero(np.ones((30, 20)) - np.eye(30, 20)), (30, 20))
    for seen in (data.train, everything):  # with one or no unseen item left, lists are short
        lists = top_lists(lambda ids: torch.rand(len(ids), 20), seen, 12, CPU)
        assert lists.shape == (30, 12)
        for user, items in enumerate(lists):
            known = set(seen[user].indices.tolist())
            real = items[items >= 0].tolist()
            assert len(set(real)) == len(real) == min(12, 20 - len(known))
            assert not known & set(real)
    spec = spec_of("rkd", "cdae", 0.5, "rkd.k=18", "rkd.decay=5", "rkd.static_epochs=0")
    lab, _ = lab_with_teacher(data, spec)
    method = RankingDistillation(
        registry.method("rkd").options_type.model_validate(spec.options), 0.5
    )
    method.run(lab)
    assert_allclose(method.places.sum(dim=1).numpy(), 1, rtol=1e-6)
    seen_by = np.diff(data.train.indptr)
    assert method.diagnostics()["users_with_short_lists"] == int((20 - seen_by < 18).sum()) > 0


def test_a_user_who_knows_every_item_has_no_list_and_does_no_harm() -> None:
    known = np.ones((4, 6)) - np.eye(4, 6)
    known[0] = 1
    shape, held = (4, 6), pairs_to_csr([1, 2], [1, 2], (4, 6))
    data = Interactions(
        "tiny", "paper", pairs_to_csr(*np.nonzero(known), shape), pairs_to_csr([], [], shape), held
    )
    for backbone in ("cdae", "multvae", "ultragcn"):
        model, _, _ = train(data, backbone, "rkd", 0.5, 2, "rkd.static_epochs=0", "batch_size=4")
        assert all(p.isfinite().all() for p in model.parameters())


def test_batches_without_an_interaction_have_no_term(interactions: Interactions) -> None:
    model, _, _ = train(interactions, "neumf", "rkd", 0.5, 1, "batch_size=2", "rkd.static_epochs=0")
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("form", ["ftd", "htd"])
def test_topology_of_the_teacher_is_learned(interactions: Interactions, form: str) -> None:
    """With the term alone in charge, similarities come closer to the teacher's than by training."""
    distances = []
    for weight in (0.0, 1.0):
        settings = [f"tkd.form={form}", f"tkd.weight={weight}", "lr=0.02", "tkd.balance=1"]
        spec = spec_of("tkd", "lightgcn", 0.5, *settings, "tkd.groups=2", epochs=15)
        lab, teacher = lab_with_teacher(interactions, spec)
        kind = registry.method("tkd")
        student = kind(kind.options_type.model_validate(spec.options), 0.5).run(lab)
        ids = torch.arange(40), torch.arange(30)
        t, s = (torch.cat(m.vectors(*ids)).detach() for m in (teacher, student))
        distances.append(float(TopologyDistance()(t, s)))
    assert distances[1] < 0.7 * distances[0]


def test_the_form_follows_the_size_unless_it_is_named(interactions: Interactions) -> None:
    for sparsity, settings, form in [
        (0.5, [], "ftd"), (0.75, [], "htd"), (0.5, ["tkd.variant=htd"], "htd"),
    ]:  # fmt: skip
        model, method, lab = train(
            interactions, "lightgcn", "tkd", sparsity, 2, "embedding_size=8", *settings
        )
        assert method.diagnostics()["form"] == form
        assert [phase.name for phase in lab.phases] == ["teacher", "teacher's vectors", "student"]
        assert set(model.tables()) == {"embedding"}  # the auxiliary networks are gone
        assert len(list(model.parameters())) == 1


def test_a_projection_is_stored_as_the_finished_table(interactions: Interactions) -> None:
    spec = spec_of("rkd", "lightgcn", 0.5, "rkd.variant=lcm", "lr=0.02", epochs=4)
    lab, teacher = lab_with_teacher(interactions, spec)
    kind = registry.method("rkd")
    table = teacher.embedding.weight.detach()
    student = kind(kind.options_type.model_validate(spec.options), 0.5).run(lab)
    stored = student.tables()["embedding"].full().detach()
    assert stored.shape == (70, 4) and type(student.tables()["embedding"]).__name__ == "DenseTable"
    assert torch.equal(table, teacher.embedding.weight)  # frozen
    for part in (slice(0, 40), slice(40, 70)):  # one map for users and one for items
        known = np.hstack([table[part].numpy(), np.ones((len(table[part]), 1), dtype="f4")])
        solution, *_ = np.linalg.lstsq(known, stored[part].numpy(), rcond=None)
        assert_allclose(known @ solution, stored[part].numpy(), atol=1e-4)


def test_rows_of_a_projected_table_are_those_of_the_whole() -> None:
    for segments in [(("user", 5), ("item", 4)), (("item", 9),)]:
        spec = TableSpec("t", segments, 3, normal(1))
        table = ProjectedTable(spec, rows(9, 6), np.random.default_rng(0))
        ids = torch.tensor([8, 0, 4, 4])
        assert torch.allclose(table.rows(ids), table.full()[ids], atol=1e-6)
        assert table.live() == table.pack().parameters == 27
        assert sum(p.numel() for p in table.parameters()) == len(segments) * (6 * 3 + 3)


# --- sizes ----------------------------------------------------------------------------------------


def test_widths_are_rounded_down_and_layers_keep_theirs() -> None:
    assert [narrow(64, share) for share in (0.5, 0.2, 1 - 0.9)] == [32, 12, 6]
    assert narrow(10, 1 - 0.7) == 3  # not 2: 1 - 0.7 is a little more than 0.3 is less
    with pytest.raises(UnsuitableError, match="less than 1"):
        narrow(64, 0.01)

    def hyper(backbone: str, *settings: str) -> Any:
        found = resolve(
            dataset="toy", backbone=backbone, method="dense", sparsity=0, seed=0, epochs=1,
            settings=settings,
        )  # fmt: skip
        return registry.backbone(backbone).hyper_type.model_validate(found.hyper | {"epochs": 1})

    neumf = hyper("neumf", "embedding_size=8").narrowed(0.5)
    assert (neumf.embedding_size, neumf.mlp_size, neumf.widths) == (4, 16, (32, 16, 8))
    multvae = hyper("multvae", "embedding_size=600", "latent=200")
    assert multvae.narrowed(0.5).latent == 200 and multvae.narrowed(0.2).latent == 120
    assert hyper("convncf", "embedding_size=64").narrowed(0.2).embedding_size == 8
    with pytest.raises(UnsuitableError, match="no map"):
        hyper("convncf", "embedding_size=2").narrowed(0.5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_width_is_that_of_the_table(interactions: Interactions, backbone: str) -> None:
    model, _, lab = train(interactions, backbone, "dense", 0.0, 1)
    for name, table in model.tables().items():
        if table.spec.role == "embedding":
            assert lab.hyper.width(name) == table.spec.dim


def test_a_teacher_smaller_than_its_student_is_refused(interactions: Interactions) -> None:
    small, _, _ = train(interactions, "lightgcn", "dense", 0.0, 1, "embedding_size=4")
    large, _, _ = train(interactions, "lightgcn", "dense", 0.0, 1, "embedding_size=8")
    with pytest.raises(UsageError, match="at least as large as its student"):
        compare_sizes(large, small, 0.5)
    found = compare_sizes(small, large, 0.5)
    assert found["exact_share"] and found["student_widths"] == {"embedding": 4}
    assert not compare_sizes(small, large, 0.45)["exact_share"]


# --- the store ------------------------------------------------------------------------------------


def compare(*more: str) -> tuple[int, str, str]:
    return dslbench(
        "compare", "--backbone", "lightgcn", "--dataset", "toy", "--epochs", "2",
        "--set", "embedding_size=8", "--format", "json", *more,
    )  # fmt: skip


def test_a_teacher_is_trained_once_and_billed_to_every_student(
    own_home: Path,
    tmp_path: Path,
    runs_in_this_process: None,
) -> None:
    code, out, err = compare("--method", "rkd", "--sparsity", "0.5", "--sparsity", "0.8")
    assert code == 0, err
    assert "made first as the teacher of the others: toy lightgcn dense" in err
    assert "3 runs: 0 stored, 3 to make" in err
    records = json.loads(out)
    assert [r["spec"]["method"] for r in records] == ["rkd", "rkd"]  # what was asked for
    (dense_id,) = {p.name for p in (own_home / "runs").glob("[!.]*")} - {r["id"] for r in records}
    dense = store.read(dense_id)
    assert dense["spec"]["method"] == "dense" and dense["spec"]["sparsity"] == 0
    for r, width in zip(records, (4, 1), strict=True):
        assert r["budget"]["dense_table_params"] == 14400 == dense["budget"]["table_params"]
        assert r["budget"]["table_params"] == 1800 * width
        assert r["diagnostics"]["student_widths"] == {"embedding": width}
        assert r["diagnostics"]["exact_share"] == (width == 4)
        measured = r["cost"]["measured"]
        teacher, lists, student = measured["phases"]
        assert (teacher["phase"], teacher["shared_run"]) == ("teacher", dense_id)
        for key in ("train_seconds", "eval_seconds"):
            assert teacher[key] == pytest.approx(dense["cost"]["measured"][key])
        assert teacher["steps"] == dense["cost"]["measured"]["phases"][0]["steps"]
        assert lists["steps"] == 0 and lists["train_seconds"] > 0
        assert student["phase"] == "student" and student["shared_run"] is None
        assert measured["train_seconds"] == pytest.approx(
            sum(p["train_seconds"] for p in (teacher, lists, student))
        )
        # The packed file is enough to rebuild the student at its own size.
        packed = artefact.read(store.folder(r["id"]) / "model.safetensors")
        model = rebuild(packed)
        assert model.tables()["embedding"].spec.dim == width
        best, _ = Ranker(model.scorer(), datasets.load("toy").seen_before_test, 5)(np.arange(2))
        assert best.shape == (2, 5) and (best >= 0).all()

    code, out, _ = dslbench("report")  # a share that is no whole number is named
    assert code == 0 and "RKD (d=1)" in out and "87.5%" in out and "RKD (d=4)" not in out

    # Another student takes the stored teacher; one whose model was deleted is trained again.
    code, out, err = compare("--method", "tkd", "--method", "dense")
    assert code == 0 and "2 runs: 1 stored, 1 to make" in err and "made first" not in err
    shutil.rmtree(store.folder(dense_id))
    code, _, err = compare("--method", "rkd")  # the student is stored: nothing to do
    assert code == 0 and "1 run: 1 stored, 0 to make" in err
    export = tmp_path / "student.safetensors"
    code, out, err = dslbench(
        "train", "--backbone", "lightgcn", "--dataset", "toy", "--epochs", "2", "--set",
        "embedding_size=8", "--method", "rkd", "--set", "variant=lcm", "--export", str(export),
    )  # fmt: skip
    assert code == 0 and "made first as the teacher" in err and "RKD (lcm" in out
    assert "Baseline" not in out
    assert rebuild(artefact.read(export)).tables()["embedding"].spec.dim == 4
    assert store.read(dense_id)["quality"] == dense["quality"]
    assert store.has_model(dense_id)


def test_dense_runs_come_first_and_models_that_are_gone_are_made_again() -> None:
    students = [spec_of("rkd", epochs=1), spec_of("dense", epochs=1), spec_of("tkd", epochs=1)]
    planned = stock.take_stock(students, force=False, warn=lambda text: None)
    assert [(run.spec.method, run.asked) for run in planned] == [
        ("dense", True), ("rkd", True), ("tkd", True),
    ]  # fmt: skip
    record = make_run(planned[0].spec, CPU, lambda event: None)
    assert stock.take_stock(students, force=False, warn=lambda text: None)[0].done
    assert not stock.take_stock(students, force=True, warn=lambda text: None)[0].done
    # A teacher nobody asked for is not made again by --force.
    assert stock.take_stock(students[:1], force=True, warn=lambda text: None)[0].done
    model = store.folder(record["id"]) / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    warnings: list[str] = []
    assert not stock.take_stock(students, force=False, warn=warnings.append)[0].done
    assert len(warnings) == 1 and warnings[0].endswith("; the run will be made again")
    model.unlink()
    assert not stock.take_stock(students, force=False, warn=lambda text: None)[0].done
    with pytest.raises(RunError, match=r"the teacher .* cannot be read"):
        make_run(students[0], CPU, lambda event: None)


def test_no_student_of_less_than_one_column(no_trials: None) -> None:
    with pytest.raises(UnsuitableError, match=r"1% of an embedding size of 8 is less than 1"):
        spec_of("rkd", sparsity=0.99)
    code, _, err = compare("--sparsity", "0.99", "--method", "tkd")
    assert code == 2 and "embedding_size=100 is the least" in err
    # A comparison of all methods goes on without it, and says so.
    code, _, err = compare("--sparsity", "0.99", "--dry-run")
    assert code == 0 and "left out: rkd at sparsity 0.99" in err
