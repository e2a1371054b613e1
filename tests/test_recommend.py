"""Models and lists in the ids of those who brought the data."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cli_helpers import run
from dslbench import artefact, data, registry
from dslbench.data.interactions import Interactions
from dslbench.errors import DataError, UsageError
from dslbench.known import Known
from dslbench.serving import Recommender
from dslbench.tables.stored import Dense
from helpers import make_interactions

BACKBONES = registry.names("backbone")
SMALL = ["--epochs", "1", "--set", "embedding_size=8"]


def orders() -> str:
    """Every user's items drawn from a few dozen; ids that need quotes, and an empty-looking one."""
    rng = np.random.default_rng(3)
    rows = ["customer,sku"]
    for user in range(40):
        name = "Ünal, “O”" if user == 7 else f"c{user:03d}"
        for item in sorted(rng.permutation(30)[:12].tolist()):
            rows.append(f'"{name}","box, {item:02d}"')
    return "\n".join(rows) + "\n"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs_in_this_process: None) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "orders.csv").write_text(orders(), encoding="utf-8")
    (tmp_path / "orders.toml").write_text('[columns]\nuser = "customer"\nitem = "sku"\n')
    return tmp_path


def train(*args: str, backbone: str = "lightgcn") -> dict[str, Any]:
    """Export `m.safetensors`; the run's record."""
    code, out, err = run(
        "train", "--backbone", backbone, "--dataset", "orders.csv", *SMALL, "--export",
        "m.safetensors", "--json", *args,
    )  # fmt: skip
    assert code == 0, err
    record: dict[str, Any] = json.loads(out)
    return record


def elsewhere(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another machine: no store, and no data."""
    (shop / "orders.csv").rename(shop / "gone.csv")
    monkeypatch.setenv("DSLBENCH_HOME", str(shop / "nowhere"))


def given_lists(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["user"], []).append(row["item"])
            assert len(found[row["user"]]) == int(row["rank"])
    return found


def worth_of_lists() -> dict[str, float]:
    """What `score` says of `lists.csv`, by metric."""
    code, out, err = run(
        "score", "--lists", "lists.csv", "--dataset", "orders.csv", "--format", "json"
    )
    assert code == 0, err
    (table,) = json.loads(out)
    return {row["Metric"]["text"]: row["Value"]["value"] for row in table["rows"]}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_lists_of_a_file_alone_are_worth_what_the_record_says(
    backbone: str, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = train("--with-seen", backbone=backbone)
    with monkeypatch.context() as patch:
        elsewhere(shop, patch)
        args = ["--model", "m.safetensors", "--all", "--output", "lists.csv"]
        code, out, err = run("recommend", *args, "--k", "20", "--leave-out", "before-test")
        assert code == 0 and out == "", err
        assert run("recommend", *args[:3], "--k", "7", "--output", "new.csv")[0] == 0
    (shop / "gone.csv").rename(shop / "orders.csv")
    values = worth_of_lists()
    from dslbench.evaluation.metrics import METRICS

    for name, metric in METRICS.items():
        assert values[metric.label] == pytest.approx(record["quality"][name], abs=1e-12), name
    # what the data have of a user is not recommended again
    pairs = {tuple(row) for row in csv.reader((shop / "orders.csv").open(encoding="utf-8"))}
    fresh = given_lists(shop / "new.csv")
    assert len(fresh) == 40 and "Ünal, “O”" in fresh
    for user, items in fresh.items():
        assert len(items) == len(set(items)) == 7 and not {(user, i) for i in items} & pairs


REFERENCES = registry.names("reference")


def fitted(name: str, *args: str) -> dict[str, Any]:
    """Export `m.safetensors` of a reference; the run's record."""
    code, out, err = run(
        "train", "--method", name, "--dataset", "orders.csv", "--export", "m.safetensors", "--json", *args
    )  # fmt: skip
    assert code == 0, err
    record: dict[str, Any] = json.loads(out)
    return record


def check_lists(shop: Path, monkeypatch: pytest.MonkeyPatch, quality: dict[str, float]) -> None:
    """The lists of `m.safetensors` alone are worth so much."""
    with monkeypatch.context() as patch:
        elsewhere(shop, patch)
        code, _, err = run(
            "recommend", "--model", "m.safetensors", "--all", "--output", "lists.csv", "--k", "20",
            "--leave-out", "before-test",
        )  # fmt: skip
        assert code == 0, err
    (shop / "gone.csv").rename(shop / "orders.csv")
    values = worth_of_lists()
    assert values["Recall@20"] == pytest.approx(quality["recall@20"], abs=1e-12)


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_recommends_from_its_file_alone(
    name: str, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = fitted(name, "--with-seen")
    check_lists(shop, monkeypatch, record["quality"])
    model = Recommender.load("m.safetensors")
    known = model._data.seen_before_valid[3].indices
    new = model.recommend_for([model.items[item] for item in known], 5)
    # Somebody new who has what a user has gets the best of that user's scores.
    scores = model._scorer(torch.tensor([3]))[0].numpy()
    scores[known] = -np.inf
    found = scores[[model.items.index(item) for item in new]]
    assert found == pytest.approx(np.sort(scores)[::-1][:5], abs=1e-6)


def test_a_reference_of_few_bits_in_its_file(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = fitted(
        "itemknn", "--with-seen", "--precision", "int4", "--set", "itemknn.centred=true"
    )
    (row,) = [one for one in record["stored"] if one["precision"] == "int4"]
    packed = artefact.read("m.safetensors")
    assert sum(array.nbytes for array in packed.rest.values()) == row["bytes"]
    assert packed.reference["options"]["centred"] is True
    check_lists(shop, monkeypatch, row["quality"])


def test_a_reference_needs_what_users_have_seen(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted("rp3beta")
    args = ["recommend", "--model", "m.safetensors", "--user", "c001"]
    assert run(*args)[0] == 0  # the data set is here
    elsewhere(shop, monkeypatch)
    code, out, err = run(*args)
    assert code == 3 and out == "" and "lacks what users have seen" in err


@pytest.mark.parametrize("name", REFERENCES)
def test_a_damaged_file_of_a_reference_is_refused(name: str, shop: Path) -> None:
    fitted(name, "--with-seen")
    packed = artefact.read("m.safetensors")
    rest, about = packed.rest, packed.reference
    damaged = [
        replace(packed, rest={key: array[:-1] for key, array in rest.items()}),
        replace(packed, rest=rest | {"more": np.zeros(3, dtype=np.float32)}),
        replace(packed, rest={}),
        replace(packed, reference=about | {"form": "x"}),
        replace(packed, reference=about | {"form": [1]}),
    ]
    for key, array in rest.items():
        if array.dtype.kind == "u":  # columns and counts
            beyond = np.full_like(array, np.iinfo(array.dtype).max)
            damaged.append(replace(packed, rest=rest | {key: beyond}))
    if name in ("gfcf", "slim"):  # several columns a row
        damaged.append(replace(packed, rest=rest | {"columns": rest["columns"][::-1]}))
    for key in (key for key, value in about.items() if type(value) in (int, float)):
        damaged += [replace(packed, reference=about | {key: x}) for x in (-1, "x", None, 1e300)]
    for one in damaged:
        Path("bad.safetensors").write_bytes(artefact.to_bytes(one))
        code, out, err = run("recommend", "--model", "bad.safetensors", "--user", "c001")
        assert code == 3 and out == "" and "Traceback" not in err, (one.reference, err)


def test_a_model_written_without_what_was_seen(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train()
    known = Known.read(artefact.read("m.safetensors").known)
    assert known.pairs is None and known.user_ids is not None
    args = ["recommend", "--model", "m.safetensors", "--user", "c001", "--k", "3"]
    code, here, err = run(*args)
    assert code == 0 and "data set 'orders.csv'" in err
    train("--with-seen")
    assert run(*args)[1] == here
    train(backbone="neumf")
    (shop / "neumf").write_bytes((shop / "m.safetensors").read_bytes())
    train()
    elsewhere(shop, monkeypatch)
    code, out, err = run(*args)
    assert code == 3 and out == "" and "lacks what users have seen" in err and "--with-seen" in err
    # a model of rows alone can be served: nothing is left out, and that is said
    code, out, err = run("recommend", "--model", "neumf", "--user", "c001", "--k", "30")
    assert code == 0 and "nothing is left out" in err and len(out.splitlines()) == 31
    code, _, err = run(*args, "--dataset", "gone.csv")
    assert code == 0, err  # the same content under another name
    (shop / "gone.csv").write_text(orders().replace("box, 03", "box, 04"), encoding="utf-8")
    code, _, err = run(*args, "--dataset", "gone.csv")
    assert code == 3 and "trained on other data than 'gone.csv'" in err


def test_four_bits_are_served(shop: Path) -> None:
    train("--with-seen", "--precision", "int4")
    model = Recommender.load("m.safetensors")
    assert [len(found) for found in model.recommend(["c001", "c002"], 5)] == [5, 5]
    assert dict(model.recommend_all(5))["c002"] == model.recommend(["c002"], 5)[0]


def test_somebody_new(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train("--with-seen", backbone="multvae")
    model = Recommender.load("m.safetensors")
    loaded = data.load("orders.csv")
    users, items = loaded.user_names, np.array(loaded.item_names)
    row = users.index("c004")
    trained = items[loaded.train[row].indices]
    valid = set(items[loaded.valid[row].indices].tolist())
    (known,) = model.recommend(["c004"], 30, "before-test")
    found = model.recommend_for(trained.tolist(), 30)
    assert [one for one in found if one not in valid] == known and len(found) == 30 - len(trained)
    elsewhere(shop, monkeypatch)
    code, out, _ = run(
        "recommend", "--model", "m.safetensors", "--item", str(trained[0]), "--item", str(trained[1]),
        "--k", "4", "--format", "json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out) == {"user": None, "items": model.recommend_for(trained[:2].tolist(), 4)}
    for ids, said in ("12", "is one user"), (b"1", "is one user"):
        with pytest.raises(UsageError, match=said):
            model.recommend(ids)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="leave_out is 'some'"):
        model.recommend(["c001"], 3, "some")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a number of items"):
        model.recommend(["c001"], 2.5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="knows no item 'box'"):
        model.recommend_for(["box"])


def test_bad_input(shop: Path) -> None:
    train("--with-seen")
    base = ["recommend", "--model", "m.safetensors"]
    for args, code, said in (
        (base, 2, "--user ID"),
        ([*base, "--user", "c001", "--all"], 2, "--user and --all exclude each other"),
        ([*base, "--all", "--output", "m.safetensors"], 2, "is the model that is read"),
        ([*base, "--item", "box, 01", "--leave-out", "nothing"], 2, "not of --item"),
        ([*base, "--user", "c999", "--user", "0"], 2, "knows no user 'c999' and 1 more"),
        ([*base, "--item", "box, 01"], 2, "knows only users that it was trained on"),
        ([*base, "--all", "--k", "0"], 2, "--k"),
        ([*base, "--all", "--format", "xml"], 2, "unknown format 'xml'"),
        ([*base, "--all", "--leave-out", "tests"], 2, "--leave-out is all or before-test"),
        ([*base, "--all", "--output", "/"], 2, "cannot write /: it is a folder"),
        (["recommend", "--model", "orders.csv", "--all"], 3, "not a readable model file"),
        (["recommend", "--model", "none", "--all"], 3, "none cannot be read"),
        (["train", "--backbone", "neumf", "--with-seen"], 2, "add --export FILE"),
    ):
        found, out, err = run(*args)
        assert found == code and said in err and out == "" and "Traceback" not in err, (args, err)


def test_json_lines_are_read_back(shop: Path) -> None:
    train("--with-seen")
    base = ["recommend", "--model", "m.safetensors", "--all", "--k", "5", "--leave-out", "nothing"]
    _, rows, _ = run(*base)
    _, lines, _ = run(*base, "--format", "json")
    (shop / "l.csv").write_text(rows, encoding="utf-8")
    (shop / "l.jsonl").write_text(lines, encoding="utf-8")
    assert {json.loads(line)["user"]: json.loads(line)["items"] for line in lines.splitlines()} == (
        given_lists(shop / "l.csv")
    )
    tables = []
    for name in ("l.csv", "l.jsonl"):
        code, out, err = run(
            "score", "--lists", name, "--dataset", "orders.csv", "--format", "json"
        )
        assert code == 0, err
        tables.append(json.loads(out)[0]["rows"])
    assert tables[0] == tables[1]


# --- lists of others -------------------------------------------------------------------------------


@pytest.fixture
def given_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two users with two things to find each, one user with nothing to find."""
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "train.csv").write_text("user,item\na,u\na,v\nb,u\nb,w\nc,x\nc,y\nc,z\nc,v\n")
    (folder / "test.csv").write_text("user,item\na,w\na,x\nb,y\nb,z\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def score(content: str, name: str = "l.csv") -> tuple[int, dict[str, float | None], str]:
    Path(name).write_text(content)
    code, out, err = run("score", "--lists", name, "--dataset", "given", "--format", "json")
    if code:
        return code, {}, err
    (table,) = json.loads(out)
    return (
        0,
        {row["Metric"]["text"]: row["Value"]["value"] for row in table["rows"]},
        "\n".join(table["footer"]),
    )


def ranked(user: str, *best: str) -> str:
    return "".join(f"{user},{place},{item}\n" for place, item in enumerate(best, start=1))


def test_worked_by_hand(given_split: Path) -> None:
    head = "user,rank,item\n"
    code, values, notes = score(head + ranked("a", "w", "y", "x", "z") + ranked("b", "u", "z"))
    second = 1 / np.log2(3)
    assert code == 0 and "1 of 6 places hold what the user had before the test" in notes
    assert values["Recall@10"] == values["Recall@20"] == pytest.approx((1 + 1 / 2) / 2)
    assert values["HR@20"] == 1
    best = 1 + second
    assert values["NDCG@20"] == pytest.approx(((1 + 1 / 2) / best + second / best) / 2)
    code, values, notes = score(head + ranked("a", "w", "y"))
    assert code == 0 and values == {}
    assert "lists of 2 are too short for metrics at 10 and 20" in notes
    assert "1 of 2 users with something to find are without a list" in notes


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("user,rank,item\na,1,w\na,2,w\n", "l.csv, line 3: item 'w' stands twice"),
        ("user,rank,item\na,1,q\n", "l.csv, line 2: the data set has no item 'q'"),
        ("user,rank,item\nd,1,w\n", "l.csv, line 2: the data set has no user 'd'"),
        ("user,rank,item\na,first,w\n", "l.csv, line 2: 'first' in column 'rank' is no rank"),
        ("user,rank,item\na,-1,w\n", "l.csv, line 2: '-1' in column 'rank' is no rank"),
        (
            "user,rank,item\na,1,w\na,1,x\n",
            "l.csv, line 3: rank 1 stands twice in the list of user 'a'",
        ),
        ("user,item,score\na,w,nan\n", "l.csv, line 2: 'nan' in column 'score' is no number"),
        ("user,item,prediction\na,w,3\n", "what is column 'prediction', and which item is best?"),
        (
            '{"user": "a", "items": ["w"]}\n{"user": "a", "items": ["x"]}\n',
            "user 'a' already has a list",
        ),
        ('{"user": null, "items": ["w"]}\n', "null is no id"),
        ('{"user": "a", "items": [["w", 0.5]]}\n', '["w", 0.5] is no id'),
        ("a,w\nb,y\n", "does not name a column of users"),
        ("user,rank,item\nc,1,w\n", "none of 1 list is of a user with something to find"),
        ('{"user": "a", "item": "w"}\n', 'not {"user": ..., "items": [...]}'),
        ("", "l.csv"),
    ],
)
def test_lists_that_cannot_be_meant(content: str, said: str, given_split: Path) -> None:
    code, _, err = score(content)
    assert code == 3 and said in err and "Traceback" not in err


def test_users_without_a_list_have_found_nothing_and_order_is_by_rank_or_score(
    tmp_path: Path,
) -> None:
    from dslbench.data.ranked import read_ranked
    from dslbench.report.given_lists import judge

    loaded = make_interactions(30, 60)
    users = {name: row for row, name in enumerate(loaded.user_names)}
    items = {name: column for column, name in enumerate(loaded.item_names)}
    tested = np.flatnonzero(np.diff(loaded.test.indptr))
    rng = np.random.default_rng(0)
    best = {int(row): rng.permutation(60)[:20].tolist() for row in tested[:-1]}
    by_hand = []
    for row in tested:
        truth = set(loaded.test[row].indices.tolist())
        by_hand.append(len(truth & set(best.get(int(row), []))) / len(truth))
    rows = [(row, place, item) for row, found in best.items() for place, item in enumerate(found)]
    rng.shuffle(rows)
    for head, sign in (
        ("user_id\titem_id\trank", 1),
        ("item_id:token\tuser_id:token\tscore:float", -1),
    ):
        lines = [f"{r}\t{i}\t{p + 1}" if sign == 1 else f"{i}\t{r}\t{-p / 7}" for r, p, i in rows]
        (tmp_path / "l.tsv").write_text("\n".join([head, *lines]) + "\n")
        ranked = read_ranked(tmp_path / "l.tsv", users, items)
        for row, found in best.items():
            assert ranked.items[row].tolist() == found
        judged = judge(ranked, loaded)
        assert judged.means["recall@20"] == pytest.approx(np.mean(by_hand), abs=1e-12)
        assert any(note.startswith("1 of ") and "without a list" in note for note in judged.notes)


# --- what travels ----------------------------------------------------------------------------------

IDS = st.one_of(
    st.none(),
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5), min_size=6, max_size=6, unique=True
    ),
    st.lists(st.integers(0, 2**31 - 1), min_size=6, max_size=6, unique=True),
)  # fmt: skip


@given(IDS, st.booleans())
def test_what_is_known_comes_back(ids: list[Any] | None, pairs: bool) -> None:
    loaded = replace(make_interactions(6, 9), user_ids=None if ids is None else np.array(
        ids, dtype=np.int32 if isinstance(ids[0], int) else object))  # fmt: skip
    known = Known.read(Known.of(loaded, pairs=pairs).arrays())
    again = known.data("random", "default")
    assert again.user_names == loaded.user_names and again.item_names == loaded.item_names
    if pairs:
        assert again.digests == loaded.digests
    else:
        assert known.pairs is None and again.train.nnz == 0


def _damages(loaded: Interactions) -> dict[str, dict[str, Any]]:
    whole = Known.of(
        replace(loaded, item_ids=np.array(list("abcdefghi"), dtype=object)), pairs=True
    )
    arrays = whole.arrays()
    items = arrays["train.items"].copy()
    items[0] = 99
    return {
        "an item that is none": {**arrays, "train.items": items},
        "rows that end too late": {**arrays, "train.starts": arrays["train.starts"] + 1},
        "a part that is missing": {k: v for k, v in arrays.items() if not k.startswith("valid")},
        "ids that end too late": {**arrays, "items.ends": arrays["items.ends"] + 1},
        "too few ids": {**arrays, "items.ends": arrays["items.ends"][:-1]},
        "what is no part": {**arrays, "more": items},
        "items in a wrong order": {**arrays, "train.items": arrays["train.items"][::-1].copy()},
        "numbers that are none": {
            **arrays,
            "train.starts": arrays["train.starts"].astype(np.float32),
        },
        "no shape": {k: v for k, v in arrays.items() if k != "shape"},
        "a shape of one": {**arrays, "shape": np.array([6])},
        "no ends": {**arrays, "items.ends": np.empty(0, np.int64)},
        "ends that are no numbers": {
            **arrays,
            "items.ends": arrays["items.ends"].astype(np.float32),
        },
        "a number for a shape": {**arrays, "shape": np.array(6)},
        "text that is none": {**arrays, "items.text": np.full(9, 0xFF, dtype=np.uint8)},
    }


def test_damaged_knowledge_is_refused(shop: Path) -> None:
    train("--with-seen", backbone="neumf")
    packed = artefact.read("m.safetensors")
    for what, damaged in _damages(make_interactions(6, 9)).items():
        with pytest.raises(DataError) as caught:
            Recommender(replace(packed, known=damaged))
        assert "\n" not in caught.value.message, what


def test_a_reader_that_goes_is_no_error(shop: Path) -> None:
    import subprocess
    import sys

    train("--with-seen")
    program = "from dslbench.cli.main import main; main()"
    command = [sys.executable, "-c", program, "recommend", "--model", "m.safetensors", "--all"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read() and process.wait() == 0


@pytest.mark.parametrize("value", [3e38, -1e25])
def test_values_whose_scores_are_no_numbers_are_refused(shop: Path, value: float) -> None:
    """Lists of a model that scores nothing would be drawn by lot, or empty."""
    train("--with-seen")
    packed = artefact.read("m.safetensors")
    table = packed.tables["embedding"].unpack()
    table[::2] = value
    huge = replace(packed, tables={"embedding": Dense.of(table)})
    with pytest.raises(DataError, match="so large that scores are no numbers"):
        Recommender(huge).recommend(["c001"], 3)
