"""The store and the tables made from it, from records written by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dslbench import home
from dslbench.errors import RunError
from dslbench.report.build import build, build_figure
from dslbench.report.comparable import latest
from dslbench.report.formats import render
from dslbench.runs import equal_cost, store
from record_helpers import RUNS, record


def show(number: str, format_name: str, records: list[dict[str, Any]]) -> str:
    return render.tables(format_name, build(number, records), width=160, color=False)


def with_rise(made: dict[str, Any], rise: float | None) -> dict[str, Any]:
    return made | {"selection": made["selection"] | {"rise": rise}}


def test_rows_that_had_not_levelled_off_are_marked_and_named() -> None:
    dense, rp = record("dense", 0.10), record("rp", 0.08)
    [level] = build("3", [with_rise(dense, 0.0), with_rise(rp, 0.01)])
    assert "(rising)" not in str(level.rows)
    assert "All rows had levelled off (none grew by more than 1%" in "\n".join(level.footer)
    [found] = build("3", [with_rise(dense, 0.0), with_rise(rp, 0.023)])
    names = [row[1].text for row in found.rows]
    assert "RP (rising)" in names and "Baseline" in names
    assert "RP 50% +2.3%" in "\n".join(found.footer)
    [unknown] = build("3", [with_rise(dense, None), with_rise(rp, 0.0)])
    assert "levelled" not in "\n".join(unknown.footer)


def test_rows_of_other_versions_of_the_code_are_named() -> None:
    current, older, oldest = record("dense", 0.1), record("dsl", 0.09), record("rp", 0.08)
    older["versions"] = older["versions"] | {"ops": 0}
    del oldest["versions"]
    text = show("3", "markdown", [current, older, oldest])
    assert "(ops 0, now 1): DSL 50%." in text and "(before runs kept versions): RP 50%." in text
    assert "other versions" not in show("3", "markdown", [current])


def test_a_later_run_of_older_code_does_not_push_out_a_current_one() -> None:
    current, older = record("dense", 0.1), record("dense", 0.2)
    older["versions"] = older["versions"] | {"training": 0}
    older["finished"] = "2026-02-01T00:00:00"
    lines: list[str] = []
    assert latest([current, older], lines.append) == [current]
    assert latest([older, older | {"id": "b"}], lines.append)[0]["id"] == "b"
    assert len(lines) == 2


def test_table_3_in_markdown() -> None:
    lines = show("3", "markdown", RUNS).splitlines()
    assert lines[0] == (
        "**Table 3: toy, LightGCN (l=3, d=64, official preset), protocol default, "
        "REDUCED: 10 of 1000 epochs**"
    )
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    assert cells[0][:5] == ["Category", "Method", "Sparsity", "Bytes", "Paper MACs (Tr.)"]
    by_method = {row[1]: row for row in cells[2:]}
    assert list(by_method) == ["Baseline", "Baseline (int4)", "DSL", "RP"]
    assert by_method["Baseline"][10] == "**0.1005<sub>(.0007)</sub>**"
    assert by_method["DSL"][10] == "<u>0.0920<sub>(.0028)</sub></u>"
    assert by_method["RP"][10] == "0.0805<sub>(.0007)</sub>"
    assert by_method["DSL"][2:8] == [
        "50.0%",
        "<u>225.0 KiB</u>",
        "-",
        "-",
        "-",
        "-",
    ]  # not counted: never 0
    assert by_method["DSL"][8:10] == ["512 MiB", "12.5 s"]
    footer = "\n".join(lines[-7:])
    for text in (
        "Seeds: 0, 1",
        "Reduced settings: LightGCN on toy, 10 of the preset's 1000",
        "train aaaaaaaaaaaa",
        "Some CPU",
    ):
        assert text in footer


def test_different_settings_are_never_averaged_together() -> None:
    mixed = [*RUNS, record("dense", 0.5, epochs=20), record("dense", 0.6, protocol="paper")]
    mixed[-1]["selection"]["on"] = "test"
    tables = build("3", mixed)
    assert len(tables) == 3
    assert tables[0].rows[0][10].text == "0.1005"
    assert "selected on the TEST set" in "\n".join(tables[2].footer)
    changed = record("dense", 0.9)
    changed["data"]["valid_digest"] = "d" * 64
    assert len(build("3", [*RUNS, changed])) == 2


def test_what_was_set_by_hand_is_named_and_kept_apart() -> None:
    changed = record("dsl", 0.07, options={"delta_t": 5}, changed_options={"delta_t": 5})
    (table,) = build("3", [*RUNS, changed])
    assert [row[1].text for row in table.rows] == [
        "Baseline", "Baseline (int4)", "DSL", "DSL (delta_t=5)", "RP"
    ]  # fmt: skip
    other = record("dense", 0.2, hyper={"lr": 0.1}, changed_hyper={"lr": 0.1})
    assert "official preset with lr=0.1), protocol" in build("3", [*RUNS, other])[1].title


def test_table_2_puts_dsl_below_its_backbone() -> None:
    other = [record("dense", 0.3, dataset="gowalla"), record("dsl", 0.2, dataset="gowalla")]
    (table,) = build("2", [*RUNS, *other])
    assert [row[0].text for row in table.rows] == [
        "LightGCN (l=3, d=64, official preset)", "+ DSL 50%",
    ]  # fmt: skip
    assert "gowalla Recall@20" in table.headers and "toy NDCG@20" in table.headers
    assert table.rows[1][table.headers.index("gowalla Recall@20")].text == "0.2000"


def test_a_missing_value_is_a_dash_not_a_mean_of_the_rest() -> None:
    partial = record("dsl", 0.09, seed=2)
    partial["cost"]["measured"]["peak_rss_bytes"] = None
    (table,) = build("3", [*RUNS, partial])
    assert [row[8].text for row in table.rows] == ["512 MiB", "512 MiB", "-", "512 MiB"]


@pytest.mark.parametrize("width", [50, 60, 80, 200])
def test_terminal_output_keeps_to_its_width_and_breaks_no_number(width: int) -> None:
    text = render.tables("terminal", build("3", RUNS), width=width, color=False)
    assert max(len(line) for line in text.splitlines()) <= width
    for number in ("0.1005 ±.0007", "225.0 KiB", "512 MiB", "12.5 s"):
        assert number in text
    for line in text.splitlines():
        if "0.1005" in line:
            assert line.split()[0] == "Baseline"  # every part says whose numbers it shows


def test_json_is_the_records() -> None:
    assert json.loads(render.record_json(RUNS)) == RUNS


def test_store_round_trip_and_damage(own_home: Path) -> None:
    for run in RUNS[:3]:
        store.save(run, [{"epoch": 1}], {"users": np.arange(3)})
    assert [r["spec"]["method"] for r in store.read_all(pytest.fail)] == ["dense", "dsl", "rp"]
    damaged = store.folder(RUNS[0]["id"]) / "run.json"
    for content, expected in [
        ('{"format": 1,\n "id": ', "line 2"),
        ("[]", "format None"),
        ("[" * 100_000, "not a run record"),
        (json.dumps(RUNS[0] | {"id": "other"}), "a copy of run other"),
        (
            json.dumps(RUNS[0] | {"quality": {"recall@20": "high"}}),
            "'quality.recall@20' is missing",
        ),
        ('{"format": 99}', "format 99"),
        (f'{{"format": {store.FORMAT}}}', "section 'id' is missing"),
        ("", "line 1"),
    ]:
        damaged.write_text(content)
        warnings: list[str] = []
        assert len(store.read_all(warnings.append)) == 2
        assert len(warnings) == 1 and expected in warnings[0] and "run.json" in warnings[0]
        if "99" in content:  # a later version's run is not ours to replace
            with pytest.raises(RunError, match=r"format 99.*newer") as caught:
                store.has(RUNS[0]["id"], warnings.append)
            assert "--force" in (caught.value.hint or "")
        else:
            assert not store.has(RUNS[0]["id"], warnings.append)
    damaged.write_bytes(b"\xff\xfe\x00")
    assert len(store.read_all(warnings.append)) == 2
    store.save(RUNS[0], [], {"users": np.arange(3)})  # made again
    assert len(store.read_all(pytest.fail)) == 3


def test_a_failed_save_leaves_the_old_run(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(RUNS[0], [], {"users": np.arange(3)})

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space"):
        store.save(RUNS[0] | {"quality": {}}, [], {"users": np.arange(3)})
    assert store.read(RUNS[0]["id"]) == RUNS[0]
    assert [p.name for p in (own_home / "runs").iterdir()] == [RUNS[0]["id"]]


def test_what_is_stored_can_be_read_by_others(own_home: Path, tmp_path: Path) -> None:
    """A store on a shared disk is for the group too, as far as the umask lets it."""
    before = os.umask(0o022)
    try:
        store.save(RUNS[0], [], {"users": np.arange(3)})
        home.write_atomic(tmp_path / "table.md", b"x")
    finally:
        os.umask(before)
    assert store.folder(RUNS[0]["id"]).stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "table.md").stat().st_mode & 0o777 == 0o644


def counted(run: dict[str, Any], train: int, epochs: int = 10) -> dict[str, Any]:
    run["cost"]["counted"]["exact"] = {"train_macs": train, "infer_macs": train // 10}
    run["spec"]["epochs"] = epochs
    return run


def test_exact_macs_stand_beside_those_of_the_dense_run_of_the_same_seed() -> None:
    runs = [
        counted(record("dense"), 1000), counted(record("dense", seed=1), 1200),
        counted(record("dsl"), 800), counted(record("dsl", seed=1), 840), record("rp"),
    ]  # fmt: skip
    (table,) = build("3", runs)
    place = table.headers.index("of dense (Tr.)")
    rows = [row for row in table.rows if row[1].text != "Baseline (int4)"]
    assert [row[place].text for row in rows] == ["1.000x", "0.750x", "-"]
    assert rows[1][place - 1].text == "8.20e+02"
    assert any("realised non-zeros" in line for line in table.footer)


def test_equal_macs_scale_the_epochs_of_the_cheaper_runs() -> None:
    asked = []

    def make(wanted: list[tuple[dict[str, Any], int]]) -> list[dict[str, Any]]:
        asked.extend((run["spec"]["method"], epochs) for run, epochs in wanted)
        return [
            counted(record(run["spec"]["method"]), 100 * epochs, epochs) for run, epochs in wanted
        ]

    runs = [
        counted(record("dense"), 1000),
        counted(record("omp"), 1830),
        counted(record("rp"), 1000),
    ]
    found = equal_cost.equal_macs(runs, make)
    assert asked == [("dense", 18), ("rp", 18)]  # 18.3 epochs
    assert [r["equal_cost"]["budget_macs"] for r in found] == [1830] * 3
    (table,) = build("3", found)
    assert table.title.startswith("Table 3: equal training MACs, toy, LightGCN")
    shares = {row[1].text: row[4].text for row in table.rows}
    assert shares == {
        "Baseline": "98.4%",
        "Baseline (int4)": "98.4%",
        "OMP": "100.0%",
        "RP": "98.4%",
    }
    assert any("budget 1.830e+03" in line and "omp 100.0%" in line for line in table.footer)
    with pytest.raises(RunError, match="not counted"):
        equal_cost.equal_macs([record("dense")], make)


def test_a_narrower_model_names_the_width_that_was_rounded_down() -> None:
    found = {"student_widths": {"user": 12, "item": 12}, "exact_share": False}
    even = record("rkd", 0.09) | {"diagnostics": found | {"exact_share": True}}
    odd = record("tkd", 0.08) | {"diagnostics": found}
    labels = {row[1].text for row in build("3", [*RUNS, even, odd])[0].rows}
    assert labels == {"Baseline", "Baseline (int4)", "DSL", "RP", "RKD", "TKD (d=12)"}
    assert any(row[0].text == "TKD (d=12) 50%" for row in build("cost", [*RUNS, odd])[0].rows)


def test_a_search_that_did_not_reach_the_budget_is_named() -> None:
    unmet = record("pep", 0.09) | {"diagnostics": {"reached": False}}
    met = record("pep", 0.08, seed=1) | {"diagnostics": {"reached": True}}
    (table,) = build("3", [*RUNS, unmet, met])
    assert (
        "PEP's search did not come down to the budget by itself; the largest margins were kept "
        "(sparsity 50%)."
    ) in table.footer
    assert not any("search" in line for line in build("3", [*RUNS, met])[0].footer)


@pytest.mark.parametrize("table", ["3", "bytes", "cost", "stats", "tail"])
def test_tables_of_runs_without_a_dense_one(table: str) -> None:
    alone = [r for r in RUNS if r["spec"]["method"] == "dsl"]
    found, *_ = build(table, alone)
    assert found.rows
    if table == "bytes":
        assert any(x.startswith("No stored model was compared with dense") for x in found.footer)
        assert build_figure("bytes", alone)


def test_data_of_fewer_items_than_a_list_holds_are_said_to_tell_nothing() -> None:
    def lines(items: int) -> list[str]:
        runs = [r | {"data": r["data"] | {"items": items}} for r in RUNS]
        return [x for x in build("3", runs)[0].footer if "says nothing" in x]

    assert lines(44) == []  # 22.9 training pairs a user
    assert lines(42) == [
        "toy: lists of 20 hold all of the 19 items that are left to an average user, so that recall says "
        "nothing about the models."
    ]


def test_rows_without_an_entry_are_named_in_the_footer() -> None:
    def emptied(seed: int, rows: int | None, empty: int | None) -> dict[str, Any]:
        run = record("dsl", 0.05, seed=seed, sparsity=0.99)
        return run | {"budget": run["budget"] | {"rows": rows, "empty_rows": empty}}

    def lines(records: list[dict[str, Any]]) -> list[str]:
        return [x for x in build("3", records)[0].footer if "no entry left" in x]

    assert lines(RUNS) == []  # older records lack the number
    assert lines([*RUNS, emptied(5, 1800, 0)]) == []
    assert lines([*RUNS, emptied(5, 1800, 1203), emptied(6, 1800, 1203)]) == [
        "Rows of embedding tables that have no entry left: DSL 99%: 1,203 of 1,800."
    ]
    mixed = lines([emptied(5, None, 12), emptied(6, None, 9)])
    assert mixed == ["Rows of embedding tables that have no entry left: DSL 99%: up to 12."]
    other = emptied(5, 1800, 7)
    other["spec"]["dataset"] = "more"
    (line,) = [
        x for x in build("2", [emptied(5, 1800, 12), other])[0].footer if "no entry left" in x
    ]
    assert "toy LightGCN DSL 99%: 12 of 1,800; more LightGCN DSL 99%: 7 of 1,800." in line


def test_a_mask_that_was_never_updated_is_named_in_the_footer() -> None:
    def explored(seed: int, times: int) -> dict[str, Any]:
        found = {"delta_t": 2000, "explorations": times}
        return record("dsl", 0.05, seed=seed) | {"diagnostics": found}

    def lines(records: list[dict[str, Any]]) -> list[str]:
        return [x for x in build("3", records)[0].footer if "did not explore" in x]

    assert lines(RUNS) == lines([*RUNS, explored(5, 1)]) == []
    assert lines([*RUNS, explored(5, 0), explored(6, 0)]) == [
        "DSL 50% on toy, LightGCN, did not explore: the epoch that was kept lies before the mask's "
        "first update (delta_t is 2,000), so this is a random mask."
    ]
