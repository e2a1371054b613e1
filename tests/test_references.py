"""References against slow, obvious versions of the same definitions, and as runs like others."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from dslbench import data as datasets
from dslbench import registry
from dslbench.errors import RunError, UsageError
from dslbench.ops.threads import even_bounds
from dslbench.references._models import SparseWeights, largest
from dslbench.references.base import climb
from dslbench.references.ease import EASE, EASEOptions, ease
from dslbench.references.gfcf import GFCF, GFCFOptions
from dslbench.references.ials import IALS, IALSOptions, alternate
from dslbench.references.itemknn import ItemKNN, ItemKNNOptions
from dslbench.references.rp3beta import RP3beta, RP3betaOptions
from dslbench.references.sansa import SANSA, SANSAOptions, incomplete_cholesky
from dslbench.references.slim import SLIM, SLIMOptions
from dslbench.report.comparable import rows
from dslbench.report.references import beside
from dslbench.report.relative import setting_of
from dslbench.runs import fitting, plan, store
from dslbench.runs.assemble import make_lab
from dslbench.runs.worker import fit
from dslbench.runs.worker.fit import Ranked, make_reference
from dslbench.spec import RunSpec, resolve
from helpers import make_interactions
from record_helpers import record

NAMES = registry.names("reference")


def pairs(n_users: int = 40, n_items: int = 15, seed: int = 3) -> sparse.csr_matrix:
    return make_interactions(n_users, n_items, seed=seed).train


def dense(train: sparse.csr_matrix) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(train.toarray(), dtype=np.float64)


def inverse_weights(train: sparse.csr_matrix, l2: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    x = dense(train)
    p = np.linalg.inv(x.T @ x + l2 * np.eye(x.shape[1]))
    return np.where(np.eye(len(p)) > 0, 0, -p / np.diag(p))


def test_without_a_layer_lightgcn_is_matrix_factorisation() -> None:
    run = resolve(dataset="toy", backbone="lightgcn", method="dense", sparsity=0, seed=0,
                  settings=["preset=mf", "embedding_size=8"])  # fmt: skip
    data = make_interactions(40, 15)
    model: Any = make_lab(run, data, torch.device("cpu")).build()
    rows = model.embedding.full().detach()
    with torch.no_grad():
        scores = model.scorer()(torch.arange(40))
    assert scores.numpy() == pytest.approx((rows[:40] @ rows[40:].T).numpy(), abs=1e-6)


# ------------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("block", [4, 1024])  # tiles of several sizes are mirrored, too
@pytest.mark.parametrize("users", [40, 7])  # by items, and by users where these are few
def test_ease_is_numpys_inverse(monkeypatch: pytest.MonkeyPatch, block: int, users: int) -> None:
    monkeypatch.setattr("dslbench.references.ease._BLOCK", block)
    train = pairs(users)
    found = ease(train, 5.0)
    assert np.array_equal(np.diag(found), np.zeros(15))
    assert found == pytest.approx(inverse_weights(train, 5.0), abs=1e-6)


def test_ease_is_the_constrained_least_squares_solution() -> None:
    """Column j of B minimises |x_j - X b|^2 + lambda |b|^2 with b_j = 0, solved by leaving j out."""
    train = pairs(30, 8)
    x, found = dense(train), ease(train, 5.0)
    for j in range(8):
        others = [i for i in range(8) if i != j]
        left = x[:, others].T @ x[:, others] + 5 * np.eye(7)
        assert found[others, j] == pytest.approx(
            np.linalg.solve(left, x[:, others].T @ x[:, j]), abs=1e-5
        )


@pytest.mark.parametrize("share", [0.01, 0.1, 0.37, 1.0])
def test_the_largest_weights_are_kept(share: float) -> None:
    rng = np.random.default_rng(0)
    full = rng.standard_normal((20, 30)).astype(np.float32) * 10.0 ** rng.integers(-6, 3, (20, 30))
    full = full.astype(np.float32)
    full[3] = 2.5  # many of one size
    kept = largest(full, share)
    wanted = int(share * 600)
    assert kept.nnz == wanted
    assert np.sort(np.abs(kept.data)) == pytest.approx(np.sort(np.abs(full).ravel())[-wanted:])
    places = kept.nonzero()
    assert np.array_equal(np.asarray(kept[places]).ravel(), full[places])


def test_ease_at_a_share_is_stored_with_its_columns() -> None:
    train = pairs()
    whole = EASE.fit(train, EASEOptions(l2=5.0), 0)
    part = EASE.fit(train, EASEOptions(l2=5.0, keep=0.2), 0)
    assert (whole.form, whole.nbytes, whole.parameters) == ("dense", 4 * 225, 225)
    assert part.parameters == 45 and part.nbytes == 4 * 45 + 45 + 15  # a byte a column, 15 items
    coarse = part.rounded("int8")
    assert coarse.nbytes == 45 + 2 * 15 + 45 + 15
    assert coarse.scores(train) == pytest.approx(part.scores(train), abs=0.02)


def test_bytes_of_sparse_weights() -> None:
    """4 nnz + c nnz + c M bytes: c is 1 below 256 items, 2 below 65,536, else 4."""
    for m, c in ((100, 1), (300, 2), (70_000, 4)):
        rng = np.random.default_rng(m)
        weights = sparse.random_array((m, m), density=50 / m**2, rng=rng, format="csr")
        assert SparseWeights.of(weights).nbytes == (4 + c) * weights.nnz + c * m


def test_gfcf_is_dense_linear_algebra() -> None:
    train = pairs(60, 20)
    x = dense(train)
    users, items = np.maximum(x.sum(axis=1), 1), np.maximum(x.sum(axis=0), 1)
    normal = x / np.sqrt(users)[:, None] / np.sqrt(items)
    v = np.linalg.svd(normal)[2][:5].T
    low_pass = np.diag(items**-0.5) @ v @ v.T @ np.diag(items**0.5)
    model = GFCF.fit(train, GFCFOptions(factors=5, weight=0.3), 0)
    expected = x @ (normal.T @ normal + 0.3 * low_pass)
    assert model.scores(train) == pytest.approx(expected, abs=1e-5)
    alone = GFCF.fit(train, GFCFOptions(weight=0), 0)
    assert alone.parameters == 0
    assert alone.scores(train) == pytest.approx(x @ normal.T @ normal, abs=1e-5)


# ------------------------------------------------------------------------------------- neighbours


def same_but_for_ties(found: Any, full: Any, k: int) -> None:
    """Each column of `found` has entries of `full`, and they are the k largest values of it."""
    found = found.toarray()
    assert found[found > 0] == pytest.approx(full[found > 0], abs=1e-5)
    best = -np.sort(-np.maximum(full, 0), axis=0)[:k]
    assert -np.sort(-found, axis=0)[:k] == pytest.approx(best, abs=1e-5)
    assert (found > 0).sum(axis=0).max() <= k


def slow_similarity(train: sparse.csr_matrix, o: ItemKNNOptions) -> Any:
    """Similarity of the items' columns, by loops."""
    x = dense(train)
    counts, n = x.sum(axis=0), len(x)
    shrink = o.shrink or 0
    if o.tfidf:
        x = x * np.log((1 + x.shape[1]) / (1 + x.sum(axis=1)))[:, None]
    m = x.shape[1]
    found = np.zeros((m, m))
    for i in range(m):
        for j in range(m):
            dot, a, b = x[:, i] @ x[:, j], (x[:, i] ** 2).sum(), (x[:, j] ** 2).sum()
            if o.similarity == "jaccard":
                found[i, j] = dot / (counts[i] + counts[j] - dot + shrink)
            elif o.similarity == "pearson":
                spread = [np.sqrt(c - c * c / n) for c in (counts[i], counts[j])]
                found[i, j] = (dot - counts[i] * counts[j] / n) / (spread[0] * spread[1] + shrink)
            elif o.similarity == "asymmetric":
                found[i, j] = dot / (a**o.alpha * b ** (1 - o.alpha) + shrink)
            else:
                found[i, j] = dot / (np.sqrt(a * b) + shrink)
    np.fill_diagonal(found, 0)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"k": 4}, {"k": 30, "shrink": 5}, {"k": 4, "similarity": "jaccard", "shrink": 2},
        {"k": 5, "similarity": "pearson"}, {"k": 6, "similarity": "asymmetric", "alpha": 0.3},
        {"k": 4, "tfidf": True},
    ],
)  # fmt: skip
def test_item_knn_is_the_slow_version(options: dict[str, Any]) -> None:
    train, chosen = pairs(60, 12), ItemKNNOptions(**options)
    model: Any = ItemKNN.fit(train, chosen, 0)
    same_but_for_ties(model.matrix, slow_similarity(train, chosen), options["k"])


def test_normalised_neighbours_of_an_item_sum_to_one() -> None:
    model: Any = ItemKNN.fit(pairs(60, 12), ItemKNNOptions(k=4, normalised=True), 0)
    assert np.asarray(model.matrix.sum(axis=0)).ravel() == pytest.approx(np.ones(12), abs=1e-5)


@pytest.mark.parametrize("normalised", [False, True])
def test_centred_neighbours_predict_how_a_user_differs_from_the_mean(normalised: bool) -> None:
    train = pairs(60, 12)
    plain: Any = ItemKNN.fit(train, ItemKNNOptions(k=4, normalised=normalised), 0)
    model: Any = ItemKNN.fit(train, ItemKNNOptions(k=4, normalised=normalised, centred=True), 0)
    x = dense(train)
    mean = x.mean(axis=0)
    expected = mean + (x - mean) @ np.asarray(plain.matrix.toarray(), dtype=np.float64)
    assert model.scores(train) == pytest.approx(expected, abs=1e-5)
    assert model.nbytes == plain.nbytes + 4 * 12 and model.parameters == plain.parameters + 12
    assert model.rounded("int8").scores(train) == pytest.approx(expected, abs=0.05)


def test_weights_of_users_are_not_searched_where_only_counts_matter() -> None:
    assert "tfidf" in ItemKNN.searched(ItemKNNOptions())
    jaccard = ItemKNNOptions(similarity="jaccard")
    assert "tfidf" not in ItemKNN.searched(jaccard) and ItemKNN.filled(jaccard).tfidf is False


def test_rp3beta_is_the_slow_version() -> None:
    train, o = pairs(60, 12), RP3betaOptions(k=4, alpha=0.7, beta=0.4)
    x = dense(train)
    there = (x.T / x.sum(axis=0)[:, None]) ** 0.7
    back = (x / x.sum(axis=1)[:, None]) ** 0.7
    walk = np.where(x.T > 0, there, 0) @ np.where(x > 0, back, 0) / x.sum(axis=0) ** 0.4
    np.fill_diagonal(walk, 0)
    for row in walk:
        row[np.argsort(-row)[4:]] = 0
    model: Any = RP3beta.fit(train, o, 0)
    assert model.matrix.toarray() == pytest.approx(walk / walk.sum(axis=1, keepdims=True), abs=1e-5)


# --------------------------------------------------------------------------- descents and factors


@pytest.mark.parametrize(("l1", "l2"), [(0.0, 10.0), (1.0, 3.0)])
def test_slim_is_optimal(l1: float, l2: float) -> None:
    """The gradient is 0 where a weight is, and not negative where none is (KKT)."""
    train = pairs(60, 20)
    o = SLIMOptions(l1=l1, l2=l2, tolerance=1e-7, sweeps=10_000)
    model: Any = SLIM.fit(train, o, 0)
    w, x = dense(model.matrix), dense(train)
    gradient = x.T @ x @ w - x.T @ x + l2 * w + l1
    off = ~np.eye(20, dtype=bool)
    assert np.diag(w).max() == 0 and (w >= 0).all() and (w > 0).any()
    assert np.abs(gradient[off & (w > 0)]).max() < 1e-4
    assert gradient[off & (w == 0)].min() > -1e-4


def test_slim_is_the_same_however_its_items_are_dealt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of an item's descent is left for the next: weights come, and go again, in it."""
    train, found = datasets.load("toy").train, []
    for parts in (1, 7):
        monkeypatch.setattr(
            "dslbench.references.slim.even_bounds",
            lambda m, _, parts=parts: even_bounds(m, parts=parts),
        )
        model: Any = SLIM.fit(train, SLIMOptions(l1=0.1, l2=10), 0)
        found.append(dense(model.matrix))
    assert np.array_equal(*found)


def test_fs_slim_has_weights_of_the_most_similar_only() -> None:
    train = pairs(60, 20)
    model: Any = SLIM.fit(train, SLIMOptions(l1=0, l2=10, neighbours=3, tolerance=1e-7), 0)
    knn: Any = ItemKNN.fit(train, ItemKNNOptions(k=3), 0)
    near = knn.matrix.toarray() > 0
    w, x = dense(model.matrix), dense(train)
    assert (w[~near] == 0).all()
    for j in range(20):
        gradient = (x.T @ x @ w - x.T @ x + 10 * w)[:, j]
        assert np.abs(gradient[w[:, j] > 0]).max(initial=0) < 1e-4
        assert gradient[near[:, j] & (w[:, j] == 0)].min(initial=0) > -1e-4


def test_ials_falls_in_every_half_and_ends_where_the_gradient_is_zero() -> None:
    train = pairs(60, 20)
    x = dense(train)
    o = IALSOptions(d=4, alpha=0.2, reg=0.05, nu=0.5, epochs=10)
    of_users = 0.05 * (x.sum(axis=1) + 0.2 * 20) ** 0.5
    of_items = 0.05 * (x.sum(axis=0) + 0.2 * 60) ** 0.5
    values = []

    def loss(users: Any, items: Any) -> None:
        y = users.astype(np.float64) @ items.T
        fit = (x * (y - 1) ** 2).sum() + 0.2 * (y**2).sum()
        norms = (of_users @ (users**2).sum(axis=1)) + (of_items @ (items**2).sum(axis=1))
        values.append(fit + norms)

    users, items = alternate(train, o, 0, loss)
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(values))
    y = users @ items.T
    gradient = (x * (y - 1) + 0.2 * y).T @ users + of_items[:, None] * items
    assert np.abs(gradient).max() < 1e-3
    model = IALS.fit(train, o, 0)
    assert model.parameters == 20 * 4
    # A user's vector is solved for from their items, as in the next half.
    again = model.scores(train)
    assert np.abs(again - y).max() < 0.2 and np.corrcoef(again.ravel(), y.ravel())[0, 1] > 0.99


def test_sansa_with_every_entry_is_ease() -> None:
    train = pairs(60, 20)
    o = SANSAOptions(l2=5.0, density=1.0, scaled=False, refinements=200)
    found, expected = SANSA.fit(train, o, 0).scores(train), train @ inverse_weights(train, 5.0)
    unseen = dense(train) == 0
    assert found[unseen] == pytest.approx(np.asarray(expected)[unseen], abs=1e-5)


def test_the_incomplete_factor_is_exact_where_it_has_room_and_keeps_to_its_entries() -> None:
    train = pairs(60, 20).astype(np.float64)
    gram = dense(train).T @ dense(train) + 5 * np.eye(20)
    whole, added = incomplete_cholesky(train, 5.0, 400)
    assert added == 0 and whole.toarray() == pytest.approx(np.linalg.cholesky(gram), abs=1e-9)
    for kept in (20, 50, 120):
        part, _ = incomplete_cholesky(train, 5.0, kept)
        assert part.nnz <= kept and (part.diagonal() > 0).all()
        assert sparse.triu(part, 1).nnz == 0


def test_less_of_sansa_needs_less_and_is_nearly_as_good() -> None:
    data = datasets.load("toy")
    whole, part = (
        SANSA.fit(data.train, SANSAOptions(l2=20, density=density), 0) for density in (1.0, 0.1)
    )
    assert part.nbytes < 0.3 * whole.nbytes
    first, second = (Ranked(model, data).evaluate(data, "test", 0) for model in (whole, part))
    assert second.mean("recall@20") > 0.9 * first.mean("recall@20")


# ------------------------------------------------------------------------------------- odd input


def point(name: str) -> Any:
    kind = registry.reference(name)
    return kind.filled(kind.options_type())


@pytest.mark.parametrize("name", NAMES)
def test_users_and_items_without_a_pair_and_a_single_item(name: str) -> None:
    kind = registry.reference(name)
    assert set(kind.usual) == set(kind.grid)
    assert all(kind.usual[key] in choices for key, choices in kind.grid.items())
    for shape, pair in (((5, 6), ([1, 1, 2, 3], [0, 2, 2, 4])), ((3, 1), ([0, 2], [0, 0]))):
        train = sparse.csr_matrix((np.ones(len(pair[0]), np.float32), pair), shape=shape)
        model = kind.fit(train, point(name), 0)
        scores = model.scores(train)
        assert scores.shape == shape and np.isfinite(scores).all()
        assert model.nbytes > 0 and kind.memory_needed(train, point(name)) > 0
        assert scores.dtype == np.float32


@pytest.mark.parametrize("users", [4, 1])
def test_ease_without_regularisation_is_singular(users: int) -> None:
    train = sparse.csr_matrix(np.ones((users, 3), dtype=np.float32))
    with pytest.raises(RunError, match="has no inverse in float32"):
        ease(train, 0.0)


def test_options_that_do_not_go_together() -> None:
    for name, settings, message in (
        ("itemknn", ["itemknn.tfidf=true", "itemknn.similarity=jaccard"], "does not look at"),
        ("itemknn", ["itemknn.alpha=0.3"], "is of the asymmetric cosine"),
        ("ease", ["itemknn.q=1"], "unknown setting 'q' of itemknn"),
        ("ease", ["ease.keep=0"], "greater than 0"),
        ("ease", ["l2=5"], "setting 'l2' is of no backbone"),
    ):
        with pytest.raises(UsageError, match=message):
            spec(name, *settings)


# ------------------------------------------------------------------------------------ the search


def test_climbing_finds_the_peak_and_tries_no_point_twice() -> None:
    grid = {"a": (1, 2, 3, 4, 5), "b": (10, 20, 30)}
    found = climb(grid, {"a": 2, "b": 20}, lambda p: -((p["a"] - 4) ** 2) - (p["b"] - 10) ** 2)
    assert found.point == {"a": 4, "b": 10}
    tried = [tuple(p.values()) for p, _ in found.tried]
    assert len(tried) == len(set(tried)) < 15


def test_the_edge_of_a_grid() -> None:
    assert EASE.at_edge(EASE.grid, {"l2": EASE.grid["l2"][-1]}) == ["l2"]
    assert EASE.at_edge(EASE.grid, {"l2": 100.0}) == []
    middle = {"k": 400, "alpha": 0.8, "beta": 0.0}
    assert RP3beta.at_edge(RP3beta.grid, middle) == []  # nothing lies below 0
    assert RP3beta.at_edge(RP3beta.grid, middle | {"k": 50}) == ["k"]


# ---------------------------------------------------------------------------------- runs like others


def spec(name: str, *settings: str, **changes: Any) -> RunSpec:
    given = {"dataset": "toy", "backbone": "none", "sparsity": 0.5, "seed": 0} | changes
    return resolve(method=name, settings=settings, **given)


def test_identity_is_of_the_reference_alone() -> None:
    """Backbone, epochs, sparsity and, where nothing is drawn, the seed mean nothing to it."""
    one = spec("ease")
    other = spec("ease", backbone="lightgcn", sparsity=0.8, seed=3, epochs=7)
    assert one == other and one.identity({}) == other.identity({})
    assert spec("ials", seed=3) != spec("ials")
    assert spec("ease", "ease.l2=80").changed_options == {"l2": 80.0}
    assert spec("ease", "ease.l2=80").identity({}) != one.identity({})
    assert "backbone" not in one.versions() and "evaluation" in one.versions()


def test_a_stored_reference_is_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[dict[str, Any]] = []
    fixed = {"tfidf": (False,), "normalised": (False,), "shrink": (0,)}
    monkeypatch.setattr(ItemKNN, "grid", {"k": (10, 20, 40)} | fixed)
    monkeypatch.setattr(ItemKNN, "usual", ItemKNN.usual | {"k": 20})
    monkeypatch.setattr(fit, "_SAY_EVERY", 0.0)
    made = make_reference(spec("itemknn"), events.append)
    kept = store.read(made["id"])
    assert kept == made
    assert kept["selection"] == {"epoch": None, "on": "valid"}
    tried = kept["diagnostics"]["points"]
    best = max(tried, key=lambda one: one["recall@20"])
    assert kept["diagnostics"]["chosen"] == {k: v for k, v in best.items() if k != "recall@20"}
    assert kept["diagnostics"]["at_edge"] == (["k"] if best["k"] in (10, 40) else [])
    assert bool(kept["diagnostics"]["at_edge"]) == any("edge" in e.get("text", "") for e in events)
    said = [e["text"] for e in events if e.get("text", "").startswith("search: ")]
    assert len(said) == len(tried) and "of at most 3 points" in said[0] and "k=20, " in said[0]
    phases = kept["cost"]["measured"]["phases"]
    assert [(p["phase"], p["steps"]) for p in phases] == [("search", len(tried)), ("fit", 1)]
    assert kept["budget"]["table_bytes"] == kept["stored"][0]["bytes"]
    precisions = [row["precision"] for row in kept["stored"]]
    assert precisions == ["fp32", "fp16", "int8", "int4"]
    sizes = [row["bytes"] for row in kept["stored"]]
    assert sizes == sorted(sizes, reverse=True)
    assert set(store.per_user(made["id"]) or {}) >= {"users", "recall@20", "recall@20|int8"}
    assert kept["cost"]["counted"]["exact"]["train_macs"] is None


def test_references_stand_in_every_table_of_their_data() -> None:
    made = make_reference(spec("popularity"), lambda event: None)

    def trained(backbone: str, method: str) -> dict[str, Any]:
        found = record(method, backbone=backbone)
        return found | {"data": made["data"], "id": backbone + method}

    others = [trained(b, m) for b in ("lightgcn", "neumf") for m in ("dense", "rp")]
    elsewhere = record("dense", dataset="gowalla")
    found = beside([made, *others, elsewhere])
    assert [r["id"] for r in found] == [
        "lightgcndense", "lightgcnrp", made["id"], "neumfdense", "neumfrp", made["id"], elsewhere["id"],
    ]  # fmt: skip
    assert [r["id"] for r in beside(found)] == [r["id"] for r in found]
    table = rows([r for r in found if setting_of(r) == setting_of(found[0])])
    labels = [runs[0]["spec"]["method"] for runs in table]
    assert labels == ["dense", "rp", "popularity"]
    assert beside([made]) == [made]


def test_what_does_not_fit_is_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "free_memory", lambda: 2**20)
    specs = [spec(name) for name in ("popularity", "ease")]
    kept, lines = fitting.those_that_fit(specs, lambda run_id: False)
    assert [one.method for one in kept] == ["popularity"]
    assert lines == ["toy ease seed 0: needs 0.0 GiB for 800 items, 0.0 GiB are free"]
    assert len(fitting.those_that_fit(specs, lambda run_id: True)[0]) == 2
    with pytest.raises(RunError, match=r"EASE needs .* for 800 items") as failed:
        make_reference(specs[1], lambda event: None)
    assert "popularity" in str(failed.value.hint)


def test_a_plan_has_references_once_for_all_backbones() -> None:
    chosen = plan.Chosen(
        dataset="toy", method=["dense"], seeds=2, references=True, settings=["ease.keep=0.1"]
    )
    text = 'title = "t"\ntable = "3"\n[[grid]]\nbackbone = ["lightgcn", "ultragcn"]\nsparsity = [0.3, 0.5]\n'
    specs, left_out = plan.runs(plan.parse("t", text), chosen, "toy")
    assert left_out == []
    found = [one for one in specs if one.is_reference]
    drawn = sum(registry.reference(name).uses_seed for name in NAMES)
    assert len(found) == len(NAMES) + drawn and len(specs) == len(found) + 4
    assert {one.options.get("keep") for one in found if one.method == "ease"} == {0.1}
