"""Published runs as data: there and back from the store, and every way in which a record can be wrong."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cli_helpers import run
from dslbench import presets
from dslbench.errors import UsageError
from dslbench.report import build, command
from dslbench.report.relative import setting_of
from dslbench.runs import store
from dslbench.runs.results import check as checking
from dslbench.runs.results import folder as files
from dslbench.runs.results.command import command_of, spec_of
from dslbench.runs.results.submission import curve, read, submission
from dslbench.runs.worker.fit import make_reference
from dslbench.runs.worker.run import make_run
from dslbench.spec import resolve
from dslbench.versions import SHARED

ROOT = Path(__file__).parents[1]
Change = Callable[[dict[str, Any]], None]


def spec(method: str = "dense", sparsity: float = 0.5, settings: Any = (), **other: Any) -> Any:
    asked = {"dataset": "toy", "backbone": "lightgcn", "seed": 0, "epochs": 2} | other
    return resolve(
        method=method,
        sparsity=sparsity,
        settings=["preset=official", "embedding_size=4", *settings],
        **asked,
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three real runs, made once."""
    root = tmp_path_factory.mktemp("published")
    before = os.environ.get("DSLBENCH_HOME")
    os.environ["DSLBENCH_HOME"] = str(root / "home")
    try:
        for one in (spec(), spec("rp"), spec("pep")):
            make_run(one, torch.device("cpu"), lambda event: None)
        assert run("results", "add", "--dataset", "toy", "--to", str(root / "results"))[0] == 0
    finally:
        os.environ.pop("DSLBENCH_HOME") if before is None else os.environ.update(
            DSLBENCH_HOME=before
        )
    return root / "results"


@pytest.fixture
def results(published: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    for name in (*files.files(published), files.INDEX):
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "results" / name).write_bytes((published / name).read_bytes())
    return tmp_path / "results"


def spoil(folder: Path, change: Change, *, which: int = 0, index: bool = True) -> str:
    """Change one record (of dense, unless `which`), the index along with it where `index`."""
    kept = [(read(folder / name), name) for name in files.files(folder)]
    kept.sort(key=lambda one: one[0]["record"]["spec"]["method"])
    found, name = kept[which]
    change(found)
    (folder / name).write_text(json.dumps(found))
    if index:
        files.write_index(folder)
    return name


def reasons(folder: Path) -> list[str]:
    return [f"{one.path}: {one.reason}" for one in checking.check(folder)[1]]


# ------------------------------------------------------------------------------- there and back


def test_what_is_added_is_good_and_small_and_says_nothing_of_users(published: Path) -> None:
    code, out, _ = run("results", "check", str(published))
    assert (code, out) == (0, "3 records checked, all good\n")
    for name in files.files(published):
        text = (published / name).read_text()
        found = json.loads(text)
        assert len(text) < 10_000 and "users.npz" not in text
        assert not {"started", "system", "machine"} & {
            *found["record"],
            *found["record"]["environment"],
        }
        assert len(found["record"]["finished"]) == len("2026-01-01")
        assert found["command"].startswith("dslbench train --dataset toy --backbone lightgcn")


def test_adding_again_changes_nothing(published: Path, results: Path, own_home: Path) -> None:
    before = {p: (results / p).read_bytes() for p in (*files.files(results), files.INDEX)}
    files.write_index(results)
    for name in files.files(results):
        files.write(results, read(results / name))
    assert before == {p: (results / p).read_bytes() for p in before}


def test_ids_and_filters_of_add(own_home: Path, tmp_path: Path) -> None:
    to = str(tmp_path / "r")
    assert run("results", "add", "--to", to)[0] == 2
    assert run("results", "add", "abc", "--dataset", "toy", "--to", to)[0] == 2
    code, _, err = run("results", "add", "abc", "--to", to)
    assert code == 2 and "run 'abc'" in err
    assert not (tmp_path / "r").exists()


def test_runs_of_own_data_are_not_published(published: Path, tmp_path: Path) -> None:
    found = read(published / files.files(published)[0])["record"]
    found["spec"]["dataset"] = "/home/somebody/orders.csv"
    found["data"] |= {"name": "orders.csv", "content_digest": "d" * 64}
    store.save(found, [], {})
    for wanted in ([found["id"]], ["--dataset", "orders.csv"]):
        code, _, err = run("results", "add", *wanted, "--to", str(tmp_path / "r"))
        assert code == 3 and "is not of the catalogue" in err and not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dense", ["lr=0.02"]), ("dsl", ["dsl.decay=linear", "layers=2"]), ("omp", ["omp.variant=rewind"]),
        ("lth_mrs", []), ("autoemb", ["autoemb.variant=natural"]), ("pq", ["pq.codes=8"]), ("lsq", []),
    ],
)  # fmt: skip
def test_the_command_makes_the_run(method: str, settings: list[str]) -> None:
    try:
        asked = spec(method, 0.3331, settings, seed=3, protocol="paper")
    except UsageError:  # a variant of another name
        asked = spec(method, 0.3331, [], seed=3, protocol="paper")
    again = spec_of(command_of(asked))
    assert again.decisive() == asked.decisive()
    digests = dict.fromkeys(("train", "valid", "test"), "a" * 64)
    assert again.identity(digests) == asked.identity(digests)


def test_the_command_of_a_reference_and_what_is_not_published(published: Path) -> None:
    asked = resolve(dataset="toy", backbone="", method="popularity", sparsity=0, seed=0)
    assert (
        command_of(asked)
        == "dslbench train --dataset toy --method popularity --seed 0 --protocol default"
    )
    assert spec_of(command_of(asked)).decisive() == asked.decisive()
    found = read(published / files.files(published)[0])
    found["record"]["spec"]["judged_on"] = "valid"
    with pytest.raises(ValueError, match="a trial of tune"):
        checking.check_submission(found)
    found["record"]["spec"] |= {"judged_on": "test", "preset": "tuned.toml@0a1b2c3d"}
    with pytest.raises(ValueError, match="its preset is a file"):
        checking.check_submission(found)


def test_references_are_published_beside_methods(results: Path) -> None:
    for name in ("popularity", "sansa"):
        make_reference(
            resolve(dataset="toy", backbone="", method=name, sparsity=0, seed=0), lambda event: None
        )
    code, _, err = run("results", "add", "--dataset", "toy", "--to", str(results))
    assert code == 0 and "cannot be published" not in err, err
    code, out, err = run("results", "check", str(results))
    assert code == 0 and out.startswith("5 records checked"), out
    code, out, _ = run("report", "--records", str(results), "--table", "bytes")
    assert code == 0 and "SANSA, int8" in out and "Item popularity" in out
    code, out, err = run("report", "--records", str(results), "--method", "sansa")
    assert code == 0 and "SANSA" in out and "popularity" not in out, err
    [sansa] = (
        read(results / n) for n in files.files(results) if "sansa" in (results / n).read_text()
    )
    code, out, err = run("results", "rerun", sansa["record"]["id"], "--records", str(results))
    assert code == 0 and "to the last bit" in out, err
    for path, value, said in (
        (("budget", "table_params"), 10**9, "parameters of its tables"),
        (("budget", "achieved_sparsity"), 0.99, "a reference has no achieved_sparsity"),
        (("budget", "total_params"), 10**12, "parameters of the model"),
        (("stored", 1, "bytes"), 5, "5 bytes at fp16"),
        (("cost", "counted", "exact", "train_macs"), 7, "MACs of its phases"),
        (("selection", "on"), None, "its selection is not that of a grid"),
        (("selection", "epoch"), 7, "its selection is not that of a grid"),
        (("diagnostics", "chosen"), {"l2": -1.0}, "what it chose is not of its grid"),
    ):  # fmt: skip
        found = json.loads(json.dumps(sansa))
        set_(*path, value)(found)
        with pytest.raises(ValueError, match=said):
            checking.check_submission(found)
    huge = json.loads(json.dumps(sansa))
    budget = huge["record"]["budget"]
    budget |= {"table_params": 800**2 + 1, "total_params": 800**2 + 1}
    budget["tables"][0]["parameters"] = 800**2 + 1
    with pytest.raises(ValueError, match="800 items have at most 640,000"):
        checking.check_submission(huge)


def test_the_command_of_epochs_that_were_chosen_by_cost() -> None:
    asked = resolve(dataset="toy", backbone="neumf", method="dense", sparsity=0, seed=0, epochs=7)
    longer = asked.at_epochs(9)
    odd = longer.model_copy(update={"hyper": {**longer.hyper, "lr": 0.0123}})
    assert spec_of(command_of(odd)).decisive() == odd.decisive()


def test_what_a_preset_made_before_it_was_changed_is_made_by_its_earlier_state() -> None:
    asked = {"dataset": "toy", "backbone": "lightgcn", "method": "dense", "sparsity": 0, "seed": 0}
    then = resolve(**asked, settings=["preset=fast-1"])
    now = resolve(**asked)
    made = then.model_copy(update={"preset": "fast"})
    assert made.identity({}) == then.identity({}) != now.identity({})
    one, other, new = (
        setting_of({"spec": x.model_dump(), "data": {}, "cost": {}}) for x in (made, then, now)
    )
    assert one == other != new  # they may stand in one table
    called = [presets.state_of(x.model_dump()) for x in (made, then, now)]
    assert called == ["fast-1", "fast-1", "fast"]
    changed = resolve(**asked, settings=["preset=fast-1", "lr=0.5"], epochs=3)
    assert presets.state_of(changed.model_copy(update={"preset": "fast"}).model_dump()) == "fast-1"
    assert presets.state_of(now.model_dump() | {"dataset": "/nowhere/own.csv"}) == "fast"
    assert "preset=fast-1" in command_of(made) and spec_of(command_of(made)) == then
    assert "preset=fast" in command_of(now).split() and spec_of(command_of(now)) == now
    # Without one that is as it was, all that differs is named: here the field that came later, too.
    odd = made.model_copy(update={"hyper": {**made.hyper, "lr": 0.0123}})
    assert {"negatives=1", "lr=0.0123"} < {*command_of(odd).split()}
    assert spec_of(command_of(odd)).decisive() == odd.decisive()


@pytest.mark.parametrize(
    "text",
    ["", "rm -rf /", "dslbench train", "dslbench compare --epochs 3", "dslbench train --dataset 'toy",
     "dslbench train --dataset toy --backbone lightgcn --epochs x", "dslbench train --export /etc/passwd",
     "dslbench train --dataset toy --dataset toy --backbone lightgcn --epochs 3",
     "dslbench train --dataset toy --backbone lightgcn --epochs 3 --set eval('1')=2",
     "dslbench train --dataset toy --backbone lightgcn --epochs 3 --seed"],
)  # fmt: skip
def test_other_commands_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        spec_of(text)


def test_a_curve_keeps_ends_and_what_was_judged() -> None:
    rows: list[dict[str, Any]] = [
        {
            "phase": "train",
            "epoch": e,
            "loss": 1 / e,
            **({"recall@20": e / 1000} if e % 25 == 0 else {}),
        }
        for e in range(1, 301)
    ]
    (found,) = curve([*rows])
    assert found["epoch"][0] == 1 and found["epoch"][-1] == 300 and len(found["epoch"]) <= 24
    judged = [e for e, q in zip(found["epoch"], found["quality"], strict=True) if q is not None]
    assert judged == list(range(25, 301, 25)) and found["epoch"] == sorted(found["epoch"])


# ------------------------------------------------------------------------------------ bad records


def _digit(found: dict[str, Any]) -> None:
    found["record"]["quality"]["recall@20"] += 0.001


def set_(*path: Any) -> Change:
    """A change of one value of the record."""
    *inner, last, value = path

    def change(found: dict[str, Any]) -> None:
        node = found["record"]
        for key in inner:
            node = node[key]
        node[last] = value

    return change


def _without_macs(found: dict[str, Any]) -> None:
    exact = found["record"]["cost"]["counted"]["exact"]
    for part in (exact, *exact["phases"]):
        part["train_macs"] = None


BAD: dict[str, tuple[Change, str]] = {
    "a digit": (_digit, "the quality of the model as trained is not that of its record"),
    "unknown data": (set_("spec", "dataset", "netflix"), "data set 'netflix' is not of the catalogue"),
    "other data": (set_("data", "train_digest", "0" * 64), "the digest of train is not that"),
    "other users": (set_("data", "users", 999), "999 users, the catalogue's toy has 1000"),
    "other protocol": (set_("spec", "protocol", "random"), "protocol 'random' is random here, not given"),
    "on test": (set_("selection", "on", "test"), "does not choose on test"),
    "newer code": (set_("versions", "ops", SHARED["ops"] + 1), "of 'ops' is not known"),
    "part of code": (set_("versions", "magic", 1), "not of the same parts as today's: 'magic'"),
    "no versions": (set_("versions", None), "which versions of the code made it"),
    "older code": (set_("versions", "ops", 0), "version 0 of 'ops' is not known"),
    "budget": (set_("budget", "table_params", 7), "parameters of its tables"),
    "bytes": (set_("stored", 0, "bytes", 7), "bytes as trained"),
    "macs": (set_("cost", "counted", "exact", "train_macs", 7), "MACs of its phases"),
    "no macs": (_without_macs, "MACs of its phases"),
    "seconds": (set_("cost", "measured", "train_seconds", 7.5), "seconds of its phases"),
    "id": (set_("id", "0123456789ab"), "its id is 0123456789ab, but its spec, data and versions make"),
    "seed": (set_("spec", "seed", 5), "its command makes another run: 'seed' differs"),
    "method": (set_("spec", "method", "alchemy"), "alchemy"),
    "command": (lambda f: f.update(command="dslbench train --dataset toy"), "its command lacks --backbone"),
    "other command": (lambda f: f.update(command=f["command"] + " --set lr=7"), "'hyper' differs"),
    "undescribed": (set_("budget", "my_email", "x"), "'budget.my_email' is described nowhere"),
    "metric": (set_("quality", "luck@20", 0.5), "no metric 'luck@20' is known"),
    "out of range": (set_("quality", "recall@20", 1.5), "'quality.recall@20' is 1.5, not between"),
    "escape": (set_("environment", "cpu", "a\x1b[2Jb"), "has text that cannot be printed"),
    "huge number": (set_("cost", "measured", "eval_seconds", 1e300), "has a number out of range"),
    "newer record": (set_("format", 99), "a newer dslbench wrote it"),
    "newer file": (lambda f: f.update(format=2), "format 2, this version reads 1"),
    "more in the file": (lambda f: f.update(note="x"), "section 'note' is missing or damaged"),
    "curve": (lambda f: f["curve"][0]["loss"].pop(), "the curve of 'train' has not a value each epoch"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_named_with_its_reason(name: str, results: Path) -> None:
    change, reason = BAD[name]
    path = spoil(results, change)
    code, out, err = run("results", "check", str(results))
    assert code == 3 and f"1 fault in {results}; 2 records good" in err
    assert out.startswith(f"{path}: ") and reason in out and out.count("\n") == 1


def test_more_parameters_than_asked_for(results: Path) -> None:
    def larger(found: dict[str, Any]) -> None:
        budget = found["record"]["budget"]
        more = budget["dense_table_params"] - budget["table_params"]
        budget["table_params"] += more
        budget["tables"][0]["parameters"] += more
        budget |= {"achieved_sparsity": 0.0, "total_params": 10**9}

    spoil(results, larger, which=2)
    assert "are more than sparsity 0.5 leaves" in reasons(results)[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bytes": 1}, "1 bytes at int4 are fewer than its values take"),
        (
            {"quality": {"recall@20": 1e11}},
            "recall@20 100000000000.0 at int4 is not between 0 and 1",
        ),
        ({"quality": {"coverage@20": -5.5}}, "coverage@20 -5.5 at int4 is not between 0 and 1"),
        ({"precision": ""}, "a precision has no name"),
    ],
)
def test_rounded_rows_are_possible_ones(results: Path, change: dict[str, Any], reason: str) -> None:
    def spoiled(found: dict[str, Any]) -> None:
        row = next(r for r in found["record"]["stored"] if r["precision"] == "int4")
        row |= change | (
            {"quality": row["quality"] | change["quality"]} if "quality" in change else {}
        )

    spoil(results, spoiled)
    assert reason in reasons(results)[0]


@pytest.mark.parametrize(
    ("part", "key", "value", "reason"),
    [
        ("budget", "total_params", 0, "more parameters than the whole model"),
        ("budget", "empty_rows", 10**18, "empty_rows 1,000,000,000,000,000,000, where there are"),
        ("selection", "epoch", 10**18, "epoch 1,000,000,000,000,000,000, where there are"),
        ("data", "train_pairs", 0, "it has no training pairs"),
    ],
)
def test_numbers_that_cannot_be(
    results: Path, part: str, key: str, value: int, reason: str
) -> None:
    spoil(results, lambda found: found["record"][part].update({key: value}))
    assert reason in reasons(results)[0]


def test_a_quality_without_its_metrics(results: Path) -> None:
    spoil(results, lambda found: found["record"]["stored"][1].update(quality={}))
    assert "lacks" in reasons(results)[0]


def test_a_width_that_is_no_number_is_named(results: Path) -> None:
    spoil(results, lambda found: found["record"]["spec"]["hyper"].update(embedding_size=None))
    assert len(reasons(results)) == 1


def test_a_changed_digit_is_found_by_the_index(results: Path) -> None:
    def everywhere(found: dict[str, Any]) -> None:  # so that all sums are right
        for quality in (found["record"]["quality"], found["record"]["stored"][0]["quality"]):
            quality["ndcg@20"] = round(quality["ndcg@20"] + 0.001, 4)

    path = spoil(results, everywhere, index=False)
    assert reasons(results) == [f"{path}: changed since the index was made: its sha256 is another"]


def test_duplicates(results: Path) -> None:
    name = files.files(results)[0]
    (results / "copy.json").write_bytes((results / name).read_bytes())
    files.write_index(results)
    assert reasons(results) == [f"{name}: the run is there already, as copy.json",
                                f"copy.json: its place is {name}"][::-1]  # fmt: skip


def test_files_that_come_and_go(results: Path) -> None:
    first, second, _ = files.files(results)
    (results / first).unlink()
    (results / "toy" / "extra.json").write_bytes((results / second).read_bytes())
    found = reasons(results)
    assert f"{first}: in the index, but not in the folder" in found
    assert "toy/extra.json: not in the index" in found and len(found) == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"), ("[]", "not of the right shape"), ("{}", "this version reads"),
        ('{"a": NaN}', "not a number"),
        ("[" * 50_000, "nested too deeply"),
        ("x" * 300_000, "more than 128 KiB"),
        ('{"format": 1, "command": 3, "curve": [], "record": {}}', "section 'command'"),
        ('{"format": 1, "command": "x", "curve": [], "record": []}', "section 'record'"),
    ],
)  # fmt: skip
def test_files_that_are_no_records(text: str, reason: str, results: Path) -> None:
    (results / "toy" / "0.json").write_text(text)
    files.write_index(results)
    assert len(found := reasons(results)) == 1 and reason in found[0]
    code, out, _ = run("report", "--records", str(results), "--format", "csv")
    assert code == 0 and "PEP" in out and "RP" in out  # the others are shown


def test_a_damaged_index(results: Path) -> None:
    index = json.loads((results / files.INDEX).read_text())
    (results / files.INDEX).write_text(json.dumps(index | {"digest": "0" * 64}))
    assert reasons(results) == [f"{files.INDEX}: its digest is not that of its lines"]
    (results / files.INDEX).unlink()
    assert "No such file" in reasons(results)[0]


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        for args in (["results", "check", str(folder)], ["report", "--records", str(folder)]):
            code, out, err = run(*args)
            assert code == 3 and out == "" and "try: dslbench results add" in err, args


def test_records_of_earlier_code_are_good_and_said_to_be(results: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(SHARED, "ops", SHARED["ops"] + 1)
    code, out, _ = run("results", "check", str(results))
    assert (code, out) == (
        0,
        "3 records checked, all good (3 made by earlier versions of the code)\n",
    )
    code, out, _ = run("report", "--records", str(results))
    assert code == 0 and "Made by other versions of the code (ops" in out


def test_the_repository_s_results() -> None:
    if not (ROOT / "results").is_dir():
        pytest.skip("no results are published")
    good, bad = checking.check(ROOT / "results")
    assert bad == [] and good


# ---------------------------------------------------------------------------------- what uses them


def test_reports_of_records_alone(published: Path, own_home: Path) -> None:
    """No data, no store: what needs them is '-', and nothing is asked for."""
    for table in build.TABLES:
        if table in ("2", "4", "audit"):
            continue
        code, out, err = run("report", "--records", str(published), "--table", table)
        assert code == 0 and "toy" in out, (table, err)
    code, out, _ = run("report", "--records", str(published), "--table", "bytes", "--format", "csv")
    assert {
        row["p (users)"] for row in csv.DictReader(io.StringIO(out)) if "PEP" in row["Method"]
    } == {""}
    for figure in ("pareto", "bytes", "5"):
        code, out, err = run("report", "--records", str(published), "--figure", figure)
        assert code == 0, (figure, err)
    assert not own_home.exists()


def test_a_store_beside_adds_nothing(published: Path) -> None:
    """Values of users that happen to be stored are not mixed in."""
    (one,) = [r for r in files.records(published, pytest.fail) if r["spec"]["method"] == "dense"]
    store.save({k: v for k, v in one.items() if k != "submission"}, [], {"users": [1, 2]})
    before = run("report", "--records", str(published), "--table", "stats")
    assert before[0] == 0 and command.select(pytest.fail, published, dataset="toy")[0]["submission"]
    assert run("report", "--records", str(published), "--table", "audit")[0] == 2


def test_one_row_is_made_again(published: Path, runs_in_this_process: None, tmp_path: Path) -> None:
    (name,) = [n for n in files.files(published) if "--method rp" in (published / n).read_text()]
    run_id = Path(name).stem
    code, out, err = run("results", "rerun", run_id[:6], "--records", str(published))
    assert code == 0, err
    assert "Recall@20" in out and f"run {run_id} came out again, its quality to the last bit" in out
    assert run("results", "rerun", "zzz", "--records", str(published))[0] == 2
    assert run("results", "rerun", run_id, "--records", str(published), "--within", "x")[0] == 2


def test_a_row_that_does_not_come_out_again(results: Path, runs_in_this_process: None) -> None:
    def better(found: dict[str, Any]) -> None:
        for quality in (found["record"]["quality"], found["record"]["stored"][0]["quality"]):
            quality["recall@20"] *= 1.1

    run_id = Path(spoil(results, better)).stem
    assert reasons(results) == []  # sums and digests are right: only the training tells
    code, _, err = run("results", "rerun", run_id, "--records", str(results))
    assert code == 3 and f"run {run_id} did not come out again" in err


def test_submissions_do_not_depend_on_the_machine_s_clock(published: Path) -> None:
    found = read(published / files.files(published)[0])
    record = found["record"] | {"started": "2026-01-01T10:00:00", "finished": "2026-01-01T11:00:00"}
    record["environment"] = record["environment"] | {"system": "Linux 6.1 host", "machine": "x"}
    again = submission(record, [])["record"]
    assert again["finished"] == "2026-01-01" and "system" not in again["environment"]
