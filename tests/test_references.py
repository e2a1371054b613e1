"""Reference rows against slow, obvious versions of the same definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dslbench import data as datasets
from dslbench.data.interactions import Interactions
from dslbench.errors import DataError
from dslbench.report import references
from helpers import make_interactions
from record_helpers import record


def test_ease_is_the_constrained_least_squares_solution() -> None:
    """Column j of B minimises |x_j - X b|^2 + lambda |b|^2 with b_j = 0, solved by leaving j out."""
    data = make_interactions(30, 8, seed=3)
    x, lambda_ = data.train.toarray().astype(np.float64), 5.0
    weights = references.ease(data.train, lambda_)
    assert np.array_equal(np.diag(weights), np.zeros(8))
    for j in range(8):
        others = [i for i in range(8) if i != j]
        left = x[:, others].T @ x[:, others] + lambda_ * np.eye(7)
        expected = np.linalg.solve(left, x[:, others].T @ x[:, j])
        assert weights[others, j] == pytest.approx(expected, abs=1e-5)


def test_item_knn_is_the_cosine_of_columns() -> None:
    data = make_interactions(30, 9, seed=4)
    x = data.train.toarray().astype(np.float64)
    norms = np.linalg.norm(x, axis=0)
    cosine = x.T @ x / np.outer(norms, norms)
    np.fill_diagonal(cosine, 0)
    full = references.item_knn(data.train, 100).toarray()
    assert full == pytest.approx(cosine, abs=1e-6)
    three = references.item_knn(data.train, 3).toarray()
    for j in range(9):
        kept = np.flatnonzero(three[:, j])
        assert len(kept) == 3
        best = np.sort(cosine[:, j])[-3:]
        assert np.sort(three[kept, j]) == pytest.approx(best, abs=1e-6)


def test_checkerboard_is_learned_by_both() -> None:
    """Users like the items of their own parity: the closed forms must see it, popularity can't."""
    from dslbench.data.interactions import pairs_to_csr

    users, items = np.nonzero(np.indices((40, 20)).sum(axis=0) % 2 == 0)
    part = np.random.default_rng(0).random(len(users))
    parts = [
        pairs_to_csr(users[m], items[m], (40, 20))
        for m in (part < 0.5, (part >= 0.5) & (part < 0.7), part >= 0.7)
    ]
    data = Interactions("board", "default", *parts)
    values = {}
    for name, fit, choice in (
        ("popularity", references._fit_popularity, 0.0),
        ("knn", references._fit_knn, 20),
        ("ease", references._fit_ease, 1000.0),
    ):
        values[name] = references._evaluate(data, fit(data, choice), "test").means["recall@10"]
    assert values["knn"] == values["ease"] == 1.0 and values["popularity"] < 1.0


def on_toy() -> dict[str, Any]:
    data = datasets.load("toy")
    run = record("dense")
    run["data"] = data.summary()
    return run


def test_rows_of_the_embedded_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "NEIGHBOURS", (20,))
    monkeypatch.setattr(references, "LAMBDAS", (50.0,))
    (table,) = references.table([on_toy(), on_toy()])
    assert [row[0].text for row in table.rows] == [
        "Item popularity", "ItemKNN (K=20)", "EASE (λ=50)",
    ]  # fmt: skip
    recall = [row[1].value or 0.0 for row in table.rows]
    assert recall[0] < recall[1] and recall[0] < recall[2]


def test_ease_is_refused_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "free_memory", lambda: 2**20)
    (table,) = references.table([on_toy()])
    assert [cell.text for cell in table.rows[2]] == ["EASE", "-", "-", "-", "-"]
    assert any("EASE over 800 items needs" in line for line in table.footer)


def test_other_data_is_refused() -> None:
    run = on_toy()
    run["data"]["train_digest"] = "0" * 64
    with pytest.raises(DataError, match="not the data the runs were made on"):
        references.table([run])
