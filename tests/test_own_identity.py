"""Data of one's own are what they hold: in run ids, in tables, in plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli_helpers import run
from dslbench import data
from dslbench.report.naming import called, labelled
from dslbench.runs import claims, plan, stock, store
from dslbench.spec import RunSpec, resolve
from own_helpers import grid, write


def spec(dataset: str) -> RunSpec:
    return resolve(dataset=dataset, backbone="lightgcn", method="dense", sparsity=0, seed=0)


def record(dataset: str, name: str, content: str | None) -> dict[str, Any]:
    spec = {"dataset": dataset, "backbone": "lightgcn", "preset": "mf-1"}
    return {"spec": spec, "data": {"name": name, "content_digest": content}}


def test_a_run_is_known_by_content_not_by_path(tmp_path: Path) -> None:
    first = write(tmp_path, "orders.csv", grid())
    second = write(tmp_path / "elsewhere", "copy.tsv", grid(mark="\t"))
    one, other = (data.load(str(path)).digests for path in (first, second))
    assert spec(str(first)).identity(one) == spec(str(second)).identity(other)
    changed = data.load(str(write(tmp_path, "o.csv", grid(users="abd")))).digests
    assert spec(str(first)).identity(one) != spec(str(first)).identity(changed)


def test_a_stored_run_follows_its_data_to_another_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs_in_this_process: None
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    rows = "".join(f"u{u},i{i}\n" for u in range(20) for i in rng.choice(12, 8, replace=False))
    first = write(tmp_path, "orders.csv", "user,item\n" + rows)
    usual = ["train", "--backbone", "lightgcn", "--epochs", "1", "--set", "embedding_size=8"]
    code, _, err = run(*usual, "--dataset", "orders.csv")
    assert code == 0, err
    first.rename(write(tmp_path / "moved", "again.csv", ""))
    moved = ["--dataset", "moved/again.csv", "--export", "model.safetensors"]
    code, _, err = run(*usual, *moved, "--precision", "int3")
    assert code == 0 and "1 stored, 0 to make" in err, err
    [found] = store.read_all(pytest.fail)
    assert found["spec"]["dataset"] == "moved/again.csv"
    assert "int3" in {row["precision"] for row in found["stored"]}
    code, out, err = run("recommend", "--model", "model.safetensors", "--user", "u3", "--k", "3")
    assert code == 0 and len(out.splitlines()) == 4, err
    # a copy that is used now and then takes no run out of a report
    code, _, err = run(*usual, "--dataset", "moved/again.csv", "--method", "rp")
    write(tmp_path, "copy.csv", Path("moved/again.csv").read_bytes())
    code, _, err = run(*usual, "--dataset", "copy.csv")
    assert code == 0 and "1 stored, 0 to make" in err, err
    for name in ("moved/again.csv", "copy.csv", "copy", "again"):
        code, out, err = run("report", "--dataset", name)
        assert code == 0 and "Baseline" in out and "RP" in out, (name, err)
    write(tmp_path, "third.csv", Path("copy.csv").read_bytes())
    held: list[list[str]] = []
    lies_at = store.lies_at
    monkeypatch.setattr(
        store, "lies_at",
        lambda *args: (held.append([p.name for p in claims.folder().glob("[!.]*")]), lies_at(*args)),
    )  # fmt: skip
    both = ["--method", "dense", "--method", "rp"]
    code, _, err = run("compare", *usual[1:], "--dataset", "third.csv", *both)
    assert code == 0 and "2 stored, 0 to make" in err, err
    # one run is held at a time: another command may want them in another order
    assert len(held) == 2 and all(len(names) == 1 for names in held)


@pytest.mark.parametrize(
    ("items", "command", "said"),
    [
        ("w", ["train"], "leaves no test pairs in 'few'"),
        ("w", ["compare", "--method", "ease"], "leaves no test pairs in 'few'"),
        ("wx", ["compare"], "leaves no validation pairs in 'few': its users have too few items"),
        ("wx", ["tune"], "leaves no validation pairs in 'few' to choose on"),
        ("wx", ["shrink"], "leaves no validation pairs in 'few' to choose on"),
        ("abcdefghij", ["tune"], "lists of 20 hold all of the 2 items that are left"),
        ("abcdefghij", ["shrink"], "nothing can be chosen by recall in 'few'"),
    ],
)
def test_data_that_no_run_could_be_judged_on_are_refused_before_any(
    items: str, command: list[str], said: str, tmp_path: Path, no_trials: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, "few.csv", grid(items=items))
    monkeypatch.setattr(stock.WantedRun, "trainings", property(lambda _: pytest.fail("planned")))
    code, out, err = run(*command, "--backbone", "lightgcn", "--dataset", str(path))
    assert code == 3 and out == "" and said in err and "default" not in err, err


def test_published_data_sets_are_known_by_name() -> None:
    digests = data.load("toy").digests
    assert "content" not in digests
    assert spec("toy").identity(digests) != spec("gowalla").identity(digests)


def test_tables_tell_two_of_one_name_apart() -> None:
    records = [
        record("/a/orders.csv", "orders", "1" * 64), record("b/orders.csv", "orders", "2" * 64),
        record("copy.csv", "copy", "1" * 64), record("x.csv", "x", "3" * 64), record("toy", "toy", None),
    ]  # fmt: skip
    shown = [r["spec"]["dataset"] for r in labelled(records)]
    assert shown == ["orders#111111", "orders#222222", "orders#111111", "x", "toy"]
    assert records[0]["spec"]["dataset"] == "/a/orders.csv"
    for wanted, expected in (
        ("orders", [0, 1, 2]), ("orders#222222", [1]), ("copy", [0, 2]), ("copy.csv", [0, 2]),
        ("x.csv", [3]), ("x", [3]), ("toy", [4]), ("y", []),
    ):  # fmt: skip
        assert called(records, wanted) == [records[k] for k in expected]


def test_paths_in_a_plan_are_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "plans", "orders.csv", grid())
    text = 'title = "t"\n[[grid]]\nbackbone = "lightgcn"\ndataset = ["orders.csv", "toy", "../plans"]\n'
    path = write(tmp_path / "plans", "p.toml", text)
    monkeypatch.chdir(tmp_path)
    for name in (path, Path("plans/p.toml")):
        first, second, third = plan.read(str(name)).plan.grid[0].dataset or []
        assert data.load(first).n_users == 3
        assert second == "toy"
        assert Path(third).is_dir()


def test_train_and_test_files_have_a_content_as_well(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write(tmp_path / folder, "train.csv", grid())
        write(tmp_path / folder, "test.csv", "user,item\na,v\nb,w\nc,w\nb,u\na,x\nb,y\n")
    one, two = (data.load(str(tmp_path / folder), protocol="given") for folder in ("one", "two"))
    assert one.digests == two.digests
    assert one.name != two.name
