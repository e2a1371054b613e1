"""Intervals, tests and corrections against values worked out by hand and by scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dslbench.report import statistics
from dslbench.runs import store
from record_helpers import record


def test_summary_by_hand() -> None:
    found = statistics.summary([0.10, 0.12, 0.14])
    # sd 0.02; t(0.975, 2) = 4.302653; half = 4.302653 * 0.02 / sqrt(3) = 0.049683
    assert (found.n, found.mean) == (3, pytest.approx(0.12))
    assert found.deviation == pytest.approx(0.02)
    assert found.low == pytest.approx(0.12 - 0.0496828, abs=1e-6)
    assert found.high == pytest.approx(0.12 + 0.0496828, abs=1e-6)
    assert statistics.summary([0.1]) == statistics.Summary(1, 0.1, None, None, None)


def test_holm_by_hand() -> None:
    # Ascending .01 .02 .03 .04, times 4 3 2 1: .04 .06 .06 .04 -> monotone .04 .06 .06 .06
    assert statistics.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert statistics.holm([None, 0.02, None, 0.4]) == [None, 0.04, None, 0.4]
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12))
def test_holm_keeps_the_order_and_never_lowers(p_values: list[float | None]) -> None:
    adjusted = statistics.holm(p_values)
    known = [(p, a) for p, a in zip(p_values, adjusted, strict=True) if p is not None]
    assert all(a is not None and p <= a <= 1 for p, a in known)
    assert [a for _, a in sorted(known)] == sorted(a for _, a in known)
    assert [a is None for a in adjusted] == [p is None for p in p_values]


def test_paired_tests_are_scipys() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(60), rng.random(60)
    second[:20] = first[:20]  # users whose lists are equally good
    assert statistics.paired_t(first, second) == pytest.approx(
        stats.ttest_rel(first, second).pvalue
    )
    expected = stats.wilcoxon(first, second, method="approx").pvalue
    assert statistics.wilcoxon(first, second) == pytest.approx(expected)
    assert statistics.paired_t(first, first) == statistics.wilcoxon(first, first) == 1.0
    assert statistics.paired_t(first, first + 1) is None  # no spread: t would be infinite
    assert statistics.paired_t(first[:1], second[:1]) is None


def keep(method: str, values: list[list[float]], **spec: Any) -> list[dict[str, Any]]:
    """Stored runs of seeds 0, 1, ... with these Recall@20 per user."""
    runs = []
    for seed, of_users in enumerate(values):
        run = record(method, float(np.mean(of_users)), seed=seed, **spec)
        kept = np.array(of_users)
        store.save(run, [], {"users": np.arange(len(kept)), "recall@20": kept, "ndcg@20": kept / 2})
        runs.append(run)
    return runs


DENSE = [[0.1, 0.2, 0.3, 0.4], [0.2, 0.2, 0.4, 0.4], [0.1, 0.3, 0.3, 0.6]]
DSL = [[0.0, 0.1, 0.2, 0.3], [0.1, 0.1, 0.4, 0.3], [0.1, 0.2, 0.2, 0.5]]
RP = [[0.0, 0.1, 0.0, 0.3], [0.1, 0.0, 0.4, 0.0], [0.1, 0.0, 0.0, 0.0]]


def rows_of(records: list[dict[str, Any]]) -> dict[str, list[Any]]:
    (table,) = statistics.table(records)
    return {row[1].text: row for row in table.rows[: len(table.rows) // 2]}


def test_table_tests_against_dense_and_the_best_with_holm() -> None:
    rows = rows_of([*keep("dense", DENSE), *keep("dsl", DSL), *keep("rp", RP)])
    assert list(rows) == ["Baseline", "DSL 50%", "RP 50%"]
    means = {
        name: np.mean(values, axis=1) for name, values in (("d", DENSE), ("s", DSL), ("r", RP))
    }
    raw = [stats.ttest_rel(means[k], means["d"]).pvalue for k in ("s", "r")]
    expected = statistics.holm([float(p) for p in raw])
    assert [rows[k][9].value for k in ("DSL 50%", "RP 50%")] == pytest.approx(expected)
    users = {k: np.mean(v, axis=0) for k, v in (("d", DENSE), ("s", DSL), ("r", RP))}
    raw = [stats.ttest_rel(users[k], users["d"]).pvalue for k in ("s", "r")]
    expected = statistics.holm([float(p) for p in raw])
    assert [rows[k][10].value for k in ("DSL 50%", "RP 50%")] == pytest.approx(expected)
    assert rows["DSL 50%"][6].value == pytest.approx(np.mean(DSL) / np.mean(DENSE) - 1)
    change = (means["s"] - means["d"]) / np.mean(means["d"])
    low, high = stats.ttest_1samp(change, 0).confidence_interval()
    assert [rows["DSL 50%"][k].value for k in (7, 8)] == pytest.approx([low, high])
    # DSL is the best that is not dense: it is not compared with itself.
    assert [c.text for c in rows["DSL 50%"][12:]] == ["n/a"] * 4
    assert [c.text for c in rows["Baseline"][6:12]] == ["n/a"] * 6
    assert rows["RP 50%"][12].value == pytest.approx(np.mean(RP) / np.mean(DSL) - 1)


def test_fewer_than_three_seeds_is_said_and_not_tested() -> None:
    records = [*keep("dense", DENSE[:2]), *keep("dsl", DSL[:2])]
    (table,) = statistics.table(records)
    assert any("Fewer than 3 seeds: nothing can be tested" in line for line in table.footer)
    row = rows_of(records)["DSL 50%"]
    assert row[7].text == row[8].text == row[9].text == "-" and row[10].value is not None


def test_only_shared_seeds_are_compared() -> None:
    row = rows_of([*keep("dense", DENSE), *keep("dsl", DSL[:1])])["DSL 50%"]
    assert row[6].value == pytest.approx(np.mean(DSL[0]) / np.mean(DENSE[0]) - 1)


def test_missing_or_other_users_are_not_compared() -> None:
    records = [*keep("dense", DENSE), *keep("dsl", DSL)]
    (store.folder(records[-1]["id"]) / "users.npz").write_bytes(b"not a zip file")
    row = rows_of(records)["DSL 50%"]
    assert row[9].value is not None and row[10].text == row[11].text == "-"
    other = keep("rp", [[0.1, 0.2]] * 3)  # another number of users
    assert rows_of([*records[:3], *other])["RP 50%"][10].text == "-"
