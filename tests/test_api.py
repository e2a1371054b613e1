"""`import dslbench` in Python: what it costs, what it gives, what types say, and the notebook."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import dslbench as ds
from dslbench.errors import DslbenchError, UsageError
from dslbench.runs import fitted
from dslbench.serving import Recommender
from plugin_helpers import ROOT

SMALL: dict[str, Any] = {
    "dataset": "toy",
    "epochs": 1,
    "settings": {"embedding_size": 8, "preset": "official"},
}


def test_importing_costs_nothing_and_names_are_there() -> None:
    code = (
        "import sys, dslbench; assert 'train' in dir(dslbench) and hasattr(dslbench, '__version__');"
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'pandas', 'typer', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    from dslbench import api

    assert all(getattr(ds, name) is getattr(api, name) for name in ds.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ds.trian  # type: ignore[attr-defined]  # noqa: B018


def test_types_are_seen_from_outside(tmp_path: Path) -> None:
    mypy = pytest.importorskip("mypy.api")
    package = Path(ds.__file__).parent
    assert (package / "py.typed").is_file()
    (tmp_path / "own.py").write_text(
        "import dslbench as ds\nrun = ds.train('lightgcn')\nreveal_type(run)\nreveal_type(run.id)\n"
        "ds.train(backbone=3)\n"
    )
    files = [str(tmp_path / "own.py"), str(package / "__init__.py"), str(package / "api.py")]
    out, _, code = mypy.run(
        ["--follow-imports=skip", "--ignore-missing-imports", "--config-file=", "--no-incremental",
         f"--cache-dir={tmp_path}", *files]
    )  # fmt: skip
    assert code == 1
    assert '"dslbench.api.Run"' in out and 'Revealed type is "str"' in out.replace("builtins.", "")
    assert 'incompatible type "int"; expected "str | None"' in out


def test_arguments_of_a_wrong_type_are_refused_in_one_line() -> None:
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (ds.shrink, {"backbone": "lightgcn", "time": 5}, "shrink: time: "),
        (ds.shrink, {"backbone": "lightgcn", "within": "few"}, "no share of dense's quality"),
        (ds.train, {"backbone": "lightgcn", "settings": ["lr=1"]}, "train: settings: "),
        (ds.train, {"backbone": "lightgcn", "settings": {"lr": object()}}, "a setting's value"),
        (ds.compare, {"backbone": "lightgcn", "methods": "dsl"}, "compare: methods: "),
        (ds.train, {"backbone": "lightgcn", "epochs": True}, "train: epochs: "),
        (ds.train, {"backbone": "lightgcn", "epochs": "1"}, "train: epochs: "),
        (ds.train, {"dataset": pd.DataFrame({"user": range(99)})}, "train: dataset: "),
        (ds.shrink, {"backbone": "lightgcn", "within": 1}, "--within 100%"),
        (ds.load, {"name": 3}, "load: name: "), (ds.table, {"name": 3}, "table: name: "),
    ]  # fmt: skip
    for function, arguments, said in wrong:
        with pytest.raises(UsageError, match=said) as caught:
            function(**arguments)
        assert "\n" not in caught.value.message
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        ds.train("lightgcn", method_="dsl")  # type: ignore[call-arg]


def test_what_numpy_and_pandas_hold_is_taken(runs_in_this_process: None) -> None:
    usual: dict[str, Any] = {"dataset": "toy", "epochs": np.int64(1)}
    sets: list[Any] = [{"dense"}, {"dense": 1}.keys(), np.array(["dense"]), pd.Index(["dense"])]
    found = [
        ds.compare("lightgcn", methods=one, settings={"embedding_size": np.int32(4)}, **usual)
        for one in sets
    ]
    assert {tuple(frame["id"]) for frame in found} == {tuple(found[0]["id"])}
    assert len(ds.compare("lightgcn", methods=["rp"], sparsity=np.array([0.5, 0.8]), **usual)) == 2


def test_a_run_its_model_and_frames(
    runs_in_this_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ds.train("lightgcn", method="dsl", sparsity=0.5, **SMALL)
    assert run.quality["recall@20"] == run.record["quality"]["recall@20"]
    assert repr(run).startswith(f"Run({run.id}: toy lightgcn dsl")
    assert list(run.history()["epoch"]) == [1]
    with monkeypatch.context() as without:
        without.setattr(fitted, "model_of", pytest.fail)  # users' names are those of the data
        by_user = run.per_user()
    assert by_user["recall@20"].mean() == pytest.approx(run.quality["recall@20"])
    assert by_user.index[0] == "0"
    users, items = run.model.vectors()
    assert users.shape == (1000, 8) and items.shape == (800, 8) and users.dtype == np.float32
    # recommended is what these vectors score best of what a user has not seen
    data = ds.load("toy")
    scores = users[5] @ items.T
    scores[data.seen[5].indices] = -np.inf
    assert run.model.recommend(["5"], k=3) == [[str(i) for i in np.argsort(-scores)[:3]]]
    kept = run.model.tables()["embedding"]
    assert kept.shape == (1800, 8)
    assert 0 < (kept != 0).sum() <= run.record["budget"]["table_params"] == 1800 * 4
    small = run.at("int4")
    assert {t.precision for t in small.stored.tables.values()} == {"int4"}
    small.save(tmp_path / "m.safetensors", with_seen=True)
    from dslbench.serving import Recommender

    again = Recommender.load(tmp_path / "m.safetensors")
    assert again.recommend(["5"]) == small.recommend(["5"])
    runs = ds.compare("lightgcn", methods=["dense", "dsl"], **SMALL)
    assert list(runs["method"]) == ["dense", "dsl"] and runs["id"][1] == run.id
    assert runs["recall@20"][1] == run.quality["recall@20"]
    pd.testing.assert_frame_equal(ds.table(method="dsl"), runs[1:].reset_index(drop=True))
    shown = ds.table("3")
    assert {"Table", "Method", "Recall@20"} <= set(shown.columns)
    assert run.quality["recall@20"] in list(shown["Recall@20"])
    for wrong in (
        lambda: ds.train("lightgnc", **SMALL), lambda: ds.table("33"), lambda: ds.table(method="rp"),
        lambda: ds.train("lightgcn", settings={"lr": object()}), lambda: small.recommend_for(["1"]),
        lambda: ds.train("lightgcn", epochs=1, scale="quick"), lambda: ds.shrink("lightgcn", to="x"),
        lambda: small.save(tmp_path),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            wrong()


def test_a_model_is_not_saved_over_its_data(runs_in_this_process: None, tmp_path: Path) -> None:
    rows = "".join(f"u{u},i{i}\n" for u in range(20) for i in range(u % 3, 60, 3))
    path = tmp_path / "orders.csv"
    path.write_text("user,item\n" + rows)
    run = ds.train(method="popularity", dataset=path)
    with pytest.raises(UsageError, match="is the data that is read"):
        run.model.save(path)
    assert path.read_text() == "user,item\n" + rows


def test_a_reference_recommends_for_users_old_and_new(
    runs_in_this_process: None, tmp_path: Path
) -> None:
    run = ds.train(method="rp3beta", dataset="toy", settings={"rp3beta.k": 20})
    model = run.model
    (old,) = model.recommend(model.users[:1], 5)
    assert len(old) == 5 and len(set(model.recommend_for(old, 5)) - set(old)) == 5
    run.at("int8").save(tmp_path / "small", with_seen=True)
    assert len(Recommender.load(tmp_path / "small").recommend(model.users[:1], 5)[0]) == 5
    for wrong in (model.vectors, lambda: ds.train(method="dsl", dataset="toy")):
        with pytest.raises(UsageError):
            wrong()


def test_shrink(runs_in_this_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from dslbench.runs import shrinking

    monkeypatch.setattr(shrinking, "WAYS", (("svd", 0.5, ()),))
    found = ds.shrink("lightgcn", within=0.05, **SMALL)
    assert found.chosen is not None and found.chosen.name in found.sentence
    tried = found.tried()
    assert tried["chosen"].sum() == 1 and tried["bytes"].is_monotonic_increasing
    assert sum(t.nbytes for t in found.model.stored.tables.values()) == found.chosen.nbytes
    assert len(found.model.recommend(["5"], k=4)[0]) == 4
    found = ds.shrink("lightgcn", within=0.0, confident=True, **SMALL)
    found.answer.tried.clear()
    assert found.chosen is None
    with pytest.raises(DslbenchError, match="nothing that was tried fits"):
        _ = found.model


def test_the_notebook_runs(
    runs_in_this_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    book = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))
    scope: dict[str, Any] = {}
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), "quickstart.ipynb", "exec"), scope)
    assert len(scope["runs"]) == 3 and Path("small.safetensors").is_file()
