"""Tables 1 and 4, cost and pareto, from records written by hand."""

from __future__ import annotations

import copy
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dslbench import artefact
from dslbench.errors import UsageError
from dslbench.report import costs, evidence, pareto
from dslbench.report.build import build
from dslbench.report.comparable import latest
from dslbench.report.formats.terminal import terminal
from dslbench.runs import store
from dslbench.runs.record import describe
from dslbench.tables.stored import Bitmap, Dense, Rows, Values
from record_helpers import RUNS, record


def priced(method: str, recall: float = 0.1, **numbers: Any) -> dict[str, Any]:
    """A record with costs: phases, and MACs, seconds and bytes where given."""
    run = record(method, recall)
    run["cost"]["counted"] = {
        "paper": {"train_macs": numbers.get("paper"), "infer_macs": None},
        "exact": {"train_macs": numbers.get("exact"), "infer_macs": None},
    }
    names = numbers.get("phases", ["train"])
    if (exact := numbers.get("exact")) is not None:
        run["cost"]["counted"]["exact"]["phases"] = [
            {"phase": name, "train_macs": exact / len(names)} for name in names
        ]
    seconds = numbers.get("seconds", 10.0)
    run["cost"]["measured"] |= {
        "train_seconds": seconds, "test_seconds": 0.25, "peak_rss_bytes": numbers.get("peak", 2**29),
        "stored_bytes": {"dense": 4000, "csr": 3000, "bitmap": numbers.get("bitmap", 4100)},
        "phases": [
            {"phase": name, "epochs": 10, "steps": 100, "train_seconds": seconds / len(names),
             "eval_seconds": 1.0, "step_seconds": {"q1": 0.099, "median": 0.1, "q3": 0.101}}
            for name in names
        ],
    }  # fmt: skip
    return run


DENSE = priced("dense", 0.100, exact=1000.0, paper=1000.0)
DSL = priced("dsl", 0.0995, exact=500.0, paper=667.0, seconds=8.0, bitmap=2000)
OMP = priced("omp", 0.090, exact=1500.0, seconds=20.0, phases=["dense", "retrain"], bitmap=2000)


def cells(table: Any, label: str, kind: str) -> list[str]:
    start = next(n for n, row in enumerate(table.rows) if row[0].text == label)
    return next([c.text for c in row[2:]] for row in table.rows[start:] if row[1].text == kind)


def test_cost_sets_counted_beside_measured() -> None:
    table, bill = build("cost", [DENSE, DSL, OMP])
    assert cells(table, "DSL 50%", "training") == [
        "6.67e+02", "-33.3%", "5.00e+02", "-50.0%", "8.0 s", "-20.0%", "40%",
    ]  # fmt: skip
    # OMP promises no saving; the paper's convention was not counted for it.
    assert cells(table, "OMP 50%", "training") == [
        "-", "-", "1.50e+03", "+50.0%", "20.0 s", "+100.0%", "n/a",
    ]  # fmt: skip
    # No MACs of inference were counted: missing, not 0, and no fraction of it.
    assert cells(table, "DSL 50%", "inference") == ["-", "-", "-", "-", "250.0 ms", "+0.0%", "-"]
    assert cells(table, "DSL 50%", "training memory")[:2] == ["n/a", "n/a"]
    assert cells(table, "DSL 50%", "training memory")[-1] == "0%"
    assert cells(table, "DSL 50%", "stored size")[4:6] == ["2.0 KiB", "-33.3%"]
    assert [[c.text for c in row[:3]] for row in bill.rows][-2:] == [
        ["OMP 50%", "dense", "10"], ["", "retrain", "10"],
    ]  # fmt: skip
    assert [row[-1].text for row in bill.rows] == ["1.00e+03", "5.00e+02", "7.50e+02", "7.50e+02"]


def test_energy_is_shown_where_a_machine_counts_it() -> None:
    table, _ = build("cost", [DENSE, DSL])
    assert "energy" not in [row[1].text for row in table.rows]
    runs = [deepcopy(run) for run in (DENSE, DSL, OMP)]
    for run, joules in zip(runs, (2000.0, 500.0, None), strict=True):
        run["cost"]["measured"]["energy_joules"] = joules
    table, _ = build("cost", runs)
    assert cells(table, "DSL 50%", "energy")[-3:] == ["500.0 J", "-75.0%", "n/a"]
    assert cells(table, "OMP 50%", "energy")[-3:] == ["-", "-", "-"]
    assert any("processors" in note for note in table.footer)


def test_changes_compare_the_same_seeds() -> None:
    column = costs.COLUMNS["recall@20"]
    dense = [record("dense", 0.10), record("dense", 0.20, seed=1)]
    dsl = [record("dsl", 0.05), record("dsl", 0.9, seed=2)]
    assert costs.change(column, dsl, dense) == pytest.approx(-0.5)  # seed 0 alone
    assert costs.change(column, dsl[1:], dense) is None
    assert costs.change(column, [*dsl, record("dsl", 0.25, seed=1)], dense) == pytest.approx(0.0)


def test_cost_without_a_dense_run_compares_with_nothing() -> None:
    table, _ = build("cost", [DSL])
    assert cells(table, "DSL 50%", "training")[1] == "-"
    assert any("No dense run" in line for line in table.footer)


@given(
    st.lists(
        st.one_of(st.none(), st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float))),
        max_size=8,
    )
)
def test_front_is_what_nothing_dominates(points: list[tuple[float, float] | None]) -> None:
    for point, on in zip(points, pareto.front(points), strict=True):
        beaten = point is not None and any(
            p is not None
            and p[0] <= point[0] and p[1] >= point[1]
            and (p[0] < point[0] or p[1] > point[1])
            for p in points
        )  # fmt: skip
        assert on == (point is not None and not beaten)


def test_pareto_marks_what_is_not_beaten() -> None:
    (table,) = build("pareto", [DENSE, DSL, OMP])
    by_name = {row[0].text: row for row in table.rows}
    time = table.headers.index("Train time")
    assert by_name["Baseline"][time].mark == by_name["DSL 50%"][time].mark == "best"
    assert by_name["OMP 50%"][time].mark == ""
    assert "Exact MACs (In.)" not in table.headers  # no run has them
    shown = terminal([table], 160, False)
    assert "*: on the front of this cost" in shown and "best" not in shown


def keep_model(run: dict[str, Any], mask: np.ndarray[Any, Any] | None) -> None:
    table = Dense.of(np.ones((8, 8))) if mask is None else Bitmap.of(np.ones(mask.shape), mask)
    packed = artefact.StoredModel({"t": table}, {}, {}, {})
    store.save(run, [], {}, artefact.to_bytes(packed))


def test_table_1_ticks_only_with_evidence() -> None:
    uneven = np.zeros((8, 8), dtype=bool)
    uneven[:4] = True  # four full rows, four empty ones
    even = np.indices((8, 8)).sum(axis=0) % 2 == 0  # four of each row
    keep_model(DENSE, None)
    keep_model(DSL, uneven)
    keep_model(OMP, even)
    counted = priced("rp", 0.05, exact=500.0, seconds=10.0)  # counted, but no time saved
    (table,) = build("1", [DENSE, DSL, OMP, counted])
    found = {row[1].text: [c.text for c in row[2:]] for row in table.rows}
    #        training  inference memory stored  end-to-end budget non-uniform performance
    assert found["DSL 50%"] == ["✓", "✗", "(c)", "(m)", "✓", "✓", "✓", "✓"]
    assert found["OMP 50%"] == ["✗", "✗", "(c)", "(m)", "✗", "✓", "✗", "✗"]
    assert found["RP 50%"][0] == "(c)"
    assert found["RP 50%"][6] == "-"  # its model was not kept
    footer = " ".join(table.footer)
    assert "at least 5%" in footer and "at most 1%" in footer
    (alone,) = build("1", [DSL])
    assert [c.text for c in alone.rows[0][2:6]] == ["-", "-", "-", "-"]


def test_a_saving_is_shown_beyond_the_noise_of_its_measurement() -> None:
    def noisy(run: dict[str, Any]) -> dict[str, Any]:
        run = copy.deepcopy(run)
        for phase in run["cost"]["measured"]["phases"]:
            phase["step_seconds"] = {"q1": 0.08, "median": 0.1, "q3": 0.12}
        return run

    def first(*runs: dict[str, Any]) -> str:
        (table,) = build("1", list(runs))
        return next(row[2].text for row in table.rows if row[1].text == "DSL 50%")

    assert first(DENSE, DSL) == "✓"
    assert first(DENSE, noisy(DSL)) == first(noisy(DENSE), DSL) == "(c)"  # 20 % saved, 40 % noise
    dearer = copy.deepcopy(DSL)
    dearer["cost"]["counted"]["exact"]["train_macs"] = 1840.0
    assert first(DENSE, dearer) == "(m)"  # a count that rose is no saving

    def seeds(run: dict[str, Any], *seconds: float) -> list[dict[str, Any]]:
        found = []
        for seed, value in enumerate(seconds):
            one = copy.deepcopy(run)
            one["spec"]["seed"], one["id"] = seed, f"{run['id']}-{seed}"
            one["cost"]["measured"]["train_seconds"] = value
            found.append(one)
        return found

    base = seeds(noisy(DENSE), 10, 10.2, 9.9)
    assert first(*base, *seeds(noisy(DSL), 8, 8.1, 8.0)) == "✓"  # seeds say more than quartiles
    assert first(*base, *seeds(DSL, 5, 13, 8)) == "(c)"


def test_sizes_of_rows_that_vary_are_not_uniform_whatever_the_form() -> None:
    rows, widths = record("autoemb", 0.09), np.repeat([1, 8], 50)
    maps = {(0, w): (np.ones((w, 8), np.float32), np.ones(8, np.float32)) for w in (1, 8)}
    table = Rows((100, 8), Values.of(np.ones(int(widths.sum())), widths), widths, (100,), maps)
    model = artefact.StoredModel({"t": table}, {}, {}, {})
    store.save(rows, [], {}, artefact.to_bytes(model))
    assert evidence.non_uniform([rows]) == "✓"


# What differs between two runs of one table is said, keeps them apart, or is what the table compares.
COMPARED = (
    "id", "format", "started", "finished", "quality", "budget", "diagnostics", "cost.", "stored",
)  # fmt: skip
# Copies of what else is recorded, labels of it, or one run's own outcome.
DERIVED = (
    "spec.scale", "spec.embedding_size", "spec.layers", "spec.changed_hyper", "spec.changed_options",
    "data.name", "data.protocol", "data.users", "data.items", "data.train_pairs", "data.valid_pairs",
    "data.test_pairs", "selection.epoch", "selection.rise", "spec.judged_on",
)  # fmt: skip
DECISIVE = [path for path, _ in describe() if not path.startswith((*COMPARED, *DERIVED))]


@pytest.mark.parametrize("path", DECISIVE)
@pytest.mark.parametrize("table", ["3", "cost"])
def test_runs_that_differ_in_one_recorded_thing_are_marked_or_kept_apart(
    path: str, table: str
) -> None:
    dense, first, other = (copy.deepcopy(run) for run in (DENSE, DSL, DSL))
    other["spec"]["seed"], other["id"] = 1, "other"
    for run in (dense, first, other):
        run["environment"] |= {"threads": 2, **dict.fromkeys(
            ("dslbench", "python", "torch", "numpy", "scipy", "numba", "system", "machine"), "1"
        )}  # fmt: skip
        run["data"]["fold_in_digest"] = "d" * 64
        if path == "data.content_digest":  # own data, which is known by it and not by its name
            run["data"]["content_digest"] = "e" * 64
    usual = build(table, [dense, first, other])
    *sections, key = path.split(".")
    node = other
    for section in sections:
        node = node[section]
    before = node.get(key)
    node[key] = {
        str: lambda x: x[::-1] + "x", int: lambda x: x + 1, float: lambda x: x / 2,
        list: lambda x: [*x, "A sentence."], dict: lambda x: {**x, "more": 1},
    }[type(before)](before)  # fmt: skip
    if path == "selection.on":
        node[key] = "test"
    changed = build(table, [dense, first, other])
    apart = len(changed) > len(usual)
    assert apart or changed[0].footer != usual[0].footer or changed[0].title != usual[0].title or (
        [row[0].text + row[1].text for row in changed[0].rows]
        != [row[0].text + row[1].text for row in usual[0].rows]
    ), path  # fmt: skip


def test_times_of_other_threads_or_machines_are_not_compared() -> None:
    for key, value in (("threads", 1), ("cores", 8), ("cpu", "Other CPU"), ("device", "H200")):
        dense, other = copy.deepcopy(DENSE), copy.deepcopy(DSL)
        dense["environment"]["threads"] = 2
        other["environment"] |= {"threads": 2, key: value}
        table = build("cost", [dense, other])[0]
        assert cells(table, "DSL 50%", "training")[4:] == ["-", "-", "-"]
        assert cells(table, "DSL 50%", "stored size")[5] != "-"  # bytes are bytes
        (note,) = (line for line in table.footer if line.startswith("Times of"))
        assert "DSL 50%" in note and "Some CPU, 2 cores, 2 used, cpu" in note
        (shown,) = build("3", [dense, other])
        time = shown.headers.index("Train time")
        assert [row[time].text for row in shown.rows] == ["10.0 s", "10.0 s", "-"]
        assert dense["cost"]["measured"]["train_seconds"] == 10.0  # records stay as they are


def test_dispersion_of_a_random_mask_is_about_one() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((20_000, 16)) < 0.3
    entries = mask.sum(axis=1)
    assert evidence.dispersion(entries, 16) == pytest.approx(1.0, abs=0.05)


def test_table_4_compares_decays_under_the_same_settings() -> None:
    runs = [
        record("dsl", recall, seed=seed, options={"decay": decay, "rho0": 0.5},
               changed_options={} if decay == "cosine" else {"decay": decay})
        for decay, recall in (("none", 0.07), ("cosine", 0.09), ("linear", 0.08))
        for seed in (0, 1)
    ]  # fmt: skip
    for number, run in enumerate(runs):
        run["id"] = f"run{number}"
    other = record("dsl", 0.5, options={"decay": "linear", "rho0": 0.9}) | {"id": "other"}
    (table,) = build("4", [*runs, other, *RUNS])
    assert [[c.text for c in row] for row in table.rows] == [
        ["Cosine", "0.0900", "0.0450"], ["Linear", "0.0800", "0.0400"],
        ["No decay", "0.0700", "0.0350"],
    ]  # fmt: skip
    assert [row[1].mark for row in table.rows] == ["best", "second", ""]
    with pytest.raises(UsageError, match="two or more decays") as caught:
        build("4", RUNS)
    assert "table4" in (caught.value.hint or "")


def test_table_2_never_averages_over_other_data_or_settings() -> None:
    changed = record("dsl", 0.9, seed=1) | {"id": "changed"}
    changed["data"] = changed["data"] | {"train_digest": "f" * 64}
    (table,) = build("2", [*RUNS, changed])
    texts = {row[0].text: row[5].text for row in table.rows}
    assert texts["+ DSL 50%"] in ("0.0920", "0.9000") and len(table.rows) == 3
    assert {row[5].text for row in table.rows} == {"0.1005", "0.0920", "0.9000"}
    longer = record("dsl", 0.5, epochs=1000, scale="paper") | {"id": "longer"}
    assert len(build("2", [*RUNS, longer])) == 2  # another scale: another table
    with pytest.raises(UsageError, match="needs runs of dsl"):
        build("2", [record("dense")])


def test_an_older_run_of_the_same_settings_is_left_out() -> None:
    older = record("dsl", 0.2) | {"id": "older"}
    warnings: list[str] = []
    kept = latest([older, *RUNS], warnings.append)
    assert [r["id"] for r in kept].count("older") == 0 and len(kept) == len(RUNS)
    assert "1 older or repeated runs" in warnings[0]


def test_rows_of_other_seeds_stand_by_their_change_against_dense_of_the_same() -> None:
    dense = [record("dense", 0.12), record("dense", 0.10, seed=1)]
    column = costs.COLUMNS["recall@20"]
    lucky, other = [record("dsl", 0.114)], [record("dsl", 0.09, seed=7)]
    assert costs.change(column, lucky, dense) == pytest.approx(-0.05)
    assert costs.levelled(lucky, dense) == pytest.approx(0.95 * 0.11)  # though .114 is above .11
    assert costs.change(column, other, dense) is None and costs.levelled(other, dense) == 0.09
    fitted = [record("ease", 0.11)]  # depends on no seed: beside the mean of all
    assert costs.change(column, fitted, dense) == pytest.approx(0)
    assert costs.levelled(fitted, dense) == pytest.approx(0.11)
    places = pareto.points([dense, lucky], costs.COLUMNS["memory"])
    assert [place[1] for place in places if place] == pytest.approx([0.11, 0.1045])
