"""The smallest model that is as good: what is chosen, what is left out, and that it can be made again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from cli_helpers import run
from dslbench import artefact, registry
from dslbench import data as datasets
from dslbench.cli import shrinking as command
from dslbench.cli.runner import Where
from dslbench.errors import DataError, RunError, UsageError
from dslbench.report import shrunk
from dslbench.runs import shrinking, store
from dslbench.runs.durations import Pace
from dslbench.runs.equal_bytes import tables_of
from dslbench.runs.shrinking import FITS, WAYS, _sizes, like, search
from dslbench.runs.smallest import Answer, Goal
from dslbench.spec import RunSpec, resolve

SMALL = ["--dataset", "toy", "--backbone", "lightgcn", "--epochs", "1", "--set", "embedding_size=8"]
DENSE = resolve(
    dataset="toy", backbone="lightgcn", method="dense", sparsity=0, seed=0, epochs=1,
    settings=["embedding_size=64"],
)  # fmt: skip
BYTES = {
    "fp32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "int8": 1.0,
    "int6": 0.8,
    "int4": 0.5,
    "int3": 0.4,
    "int2": 0.3,
}
# What rounding leaves of the quality.
LEFT = {"fp32": 1.0, "fp16": 1.0, "bf16": 1.0, "int8": 0.999, "int6": 0.998, "int4": 0.995, "int3": 0.98,
        "int2": 0.7}  # fmt: skip


class Made:
    """Runs that take no time: their quality is that of their method."""

    def __init__(self, **quality: float) -> None:
        self.quality, self.asked = quality, list[str]()

    def make(self, spec: RunSpec) -> dict[str, Any]:
        self.asked.append(spec.method)
        if self.quality.get(spec.method) == -1:
            raise RunError("it broke")
        kept = 1 - spec.sparsity
        own = spec.options.get("precision", "fp32")
        return {
            "id": f"{spec.method}{spec.sparsity}{own}", "spec": spec.model_dump(), "kept": kept,
            "data": {"valid_pairs": 0 if spec.protocol == "paper" else 9},
            "stored": [{"precision": p, "quality": {}} for p in (own, "int8", "int4")],
            "cost": {
                "measured": {"train_seconds": 10.0, "phases": [{"train_seconds": 10.0}]},
                "counted": {"exact": {"train_macs": 10**9}},
            },
        }  # fmt: skip

    def validate(self, record: dict[str, Any], precisions: Sequence[str]) -> list[dict[str, Any]]:
        base = self.quality.get(record["spec"]["method"], 0.5) * np.linspace(0.5, 1.5, 50)
        return [
            {
                "precision": p,
                "bytes": int(115_200 * record["kept"] * BYTES[p]),
                "values": base * LEFT[p],
            }
            for p in precisions
        ]

    def found(self, goal: Goal, seconds: float = 1e6, dense: RunSpec = DENSE) -> Answer:
        said: list[str] = []
        return search(
            dense, goal, self.make, self.validate, seconds=seconds, say=said.append,
            answer=lambda answer: None,
        )  # fmt: skip


def test_the_smallest_that_loses_little_enough_is_chosen() -> None:
    made = Made(dense=1.0)
    found = made.found(Goal(within=0.01))
    assert found.chosen is not None and found.chosen.name == "Baseline, int4"
    assert found.chosen.loss == pytest.approx(0.005)
    assert found.chosen.interval[0] < 0.005 < found.chosen.interval[1]
    assert made.found(Goal(within=0.03)).chosen.precision == "int3"  # type: ignore[union-attr]
    assert made.found(Goal(within=0.0)).chosen.precision in ("fp16", "bf16")  # type: ignore[union-attr]
    made = Made(dense=1.0, mde=0.999)
    assert made.found(Goal(within=0.01)).chosen.name == "MDE 75%, int4"  # type: ignore[union-attr]


def test_the_best_within_a_size_is_chosen() -> None:
    found = Made(dense=1.0, narrow=0.999).found(Goal(most=0.1))
    assert found.chosen is not None
    assert found.chosen.nbytes <= 0.1 * found.dense.nbytes
    assert found.chosen.quality == max(t.quality for t in found.tried if t.nbytes <= 46_080)
    made = Made(dense=1.0)
    with pytest.raises(UsageError, match=r"the least is about 8,000 \(iALS") as caught:
        made.found(Goal(most=5000.0))
    assert made.asked == [] and "--to 8000" in (caught.value.hint or "")


def test_what_cannot_be_told_is_said_and_not_taken_by_the_confident() -> None:
    found = Made(dense=1.0).found(Goal(within=0.006))
    assert found.chosen is not None and found.chosen.precision == "int4"
    low, high = found.chosen.interval
    assert low < found.chosen.loss <= 0.006
    assert found.certain is (high <= 0.006)
    tight = Made(dense=1.0).found(Goal(within=found.chosen.loss))
    assert tight.chosen is not None and tight.certain is False
    assert "cannot tell that it is within" in shrunk.sentence(tight)
    assert shrunk.plain(tight, _tested(tight))["certain"] is False
    sure = Made(dense=1.0).found(Goal(within=found.chosen.loss, confident=True))
    assert sure.chosen is not None and sure.certain is True
    assert sure.chosen.nbytes > tight.chosen.nbytes and "cannot tell" not in shrunk.sentence(sure)


@pytest.mark.parametrize("setting", ["dsl.rho0=0.3", "variant=whole"])
def test_a_setting_of_one_method_is_refused(setting: str) -> None:
    code, out, err = run("shrink", *SMALL, "--set", setting)
    assert code == 2 and out == "" and f"--set {setting} has no effect" in err


def _tested(found: Answer) -> Any:
    shown = [found.dense, *([found.chosen] if found.chosen else [])]
    record = {"stored": [], "budget": {}, "quality": {}, "spec": {}}
    return {(one.run, one.precision): (record, None) for one in shown}


def test_too_few_users_and_too_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(dense=1.0)
    of_few = made.validate
    monkeypatch.setattr(
        made, "validate",
        lambda *args: [m | {"values": m["values"][:4]} for m in of_few(*args)],
    )  # fmt: skip
    with pytest.raises(DataError, match="validation has 4 users, too few"):
        made.found(Goal(within=0.01))


def test_too_few_users_are_known_before_any_training(tmp_path: Path) -> None:
    data = tmp_path / "few.csv"
    pairs = (f"u{user},i{(7 * user + step) % 300}" for user in range(8) for step in range(60))
    data.write_text("\n".join(["user,item", *pairs]) + "\n")
    code, _, err = run("shrink", "--dataset", str(data), "--backbone", "lightgcn")
    assert code == 3 and "validation has 8 users, too few" in err and "timing" not in err


def test_the_time_bounds_what_an_epoch_takes_and_not_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command.durations, "pace", lambda *_: Pace(8.0, 2.0, 40.0))
    code, _, err = run("shrink", *SMALL, "--time", "45s")
    assert code == 2 and "the dense run alone takes about 50.0 s for 1 epoch" in err
    assert "--time 200s" in err
    small = [*SMALL[:4], *SMALL[6:]]
    code, _, err = run("shrink", *small, "--epochs", "10", "--time", "95s")
    assert code == 2 and "about 2.3 min for 10 epochs" in err
    assert "--epochs 5, or --time 560s" in err
    goal = Goal(within=0.01)
    where = Where("cpu", 1)

    def epochs(seconds: float) -> int:
        wish = command.Wish(None, "lightgcn", None, (), "default", 0, goal, seconds)
        return command.dense_of(wish, where).epochs

    full = DENSE.full_epochs
    assert epochs(4 * (40 + 10 * full)) == full
    assert epochs(4 * 75) == 3
    assert epochs(60) == 1


def test_what_cannot_be_smaller_is_not_trained() -> None:
    made = Made(dense=1.0, pq=1.0)
    found = made.found(Goal(within=0.5))  # dense at int2
    assert found.chosen is not None and found.chosen.nbytes <= 34_560
    assert any("not clearly smaller than what was found" in line for line in found.left_out)
    assert len(made.asked) < 1 + len(WAYS)


def test_what_lost_too_much_where_it_was_larger_is_not_trained() -> None:
    made = Made(dense=1.0, narrow=0.98, lsq=0.9)
    left_out = made.found(Goal(within=0.01)).left_out
    assert made.asked.count("narrow") == made.asked.count("lsq") == 1
    assert "Narrow 75%: Narrow 50%, fp32, which is larger, lost 2.0%" in left_out
    unsure = Made(dense=1.0, narrow=0.9895)  # its interval reaches 1 %
    unsure.found(Goal(within=0.01))
    assert unsure.asked.count("narrow") == 2
    made = Made(dense=1.0, narrow=0.998)
    made.found(Goal(within=0.01))
    assert made.asked.count("narrow") == 2
    made = Made(dense=1.0, narrow=0.98)
    made.found(Goal(most=0.2))  # the best of so many bytes may be of a method that loses
    assert made.asked.count("narrow") == 2
    sizes: dict[str, list[int]] = {}
    for method, sparsity, settings in WAYS:
        spec = like(DENSE, method, sparsity, settings)
        sizes.setdefault(method, []).append(max(_sizes(spec, tables_of(DENSE)).values()))
    assert all(found == sorted(found, reverse=True) for found in sizes.values())


@pytest.mark.parametrize(("left", "tried"), [(0.97, False), (0.985, True)])
def test_what_only_a_dear_rounding_makes_smaller_is_not_trained(
    left: float, tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LEFT, "int3", left)

    class Poor(Made):  # a model that lost much before it is rounded says nothing of rounding
        def validate(
            self, record: dict[str, Any], precisions: Sequence[str]
        ) -> list[dict[str, Any]]:
            models = super().validate(record, precisions)
            if record["spec"]["method"] == "svd":
                models = [one | {"values": models[0]["values"]} for one in models]
            return models

    made = Poor(dense=1.0, mde=0.996, narrow=1.0, svd=0.7)
    found = made.found(Goal(within=0.01))
    assert ("narrow" in made.asked) is tried
    said = (
        "Narrow 50%: it is smaller than what was found at int3, int2 only, where rounding had cost "
        "every model that fits without 3.0% or more"
    )
    assert (said in found.left_out) is not tried
    assert "lsq" in made.asked  # it learns to be rounded


def test_a_reference_takes_part() -> None:
    """800 items; its fits are expected to run at the rate of dense's MACs."""
    sizes = _sizes(like(DENSE, "ials", 0.0, ["ials.d=16"]), tables_of(DENSE))
    assert sizes == {"fp32": 51_200, "fp16": 25_600, "int8": 14_400, "int4": 8_000}
    made = Made(dense=1.0, ials=1.04)
    found = made.found(Goal(within=0.01))
    assert made.asked.count("ials") == 3
    kind = registry.reference("ials")
    train = datasets.load("toy").train
    macs = kind.train_macs(train, kind.filled(kind.options_type()))
    assert macs is not None
    expected = 10.0 * FITS * macs / 1e9
    found = made.found(Goal(within=0.01), seconds=expected - 1)
    assert (
        f"iALS: it takes about {expected:.0f} s, and {expected - 1:.0f} s are left"
        in found.left_out
    )


def test_a_reference_that_is_the_answer_is_written_and_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs_in_this_process: None
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen_by_hand = ("ials.d=16", "ials.alpha=0.3", "ials.reg=0.003")
    monkeypatch.setattr(shrinking, "WAYS", (("ials", 0.0, chosen_by_hand),))
    # After one epoch dense is poor.
    args = [*SMALL[:-1], "embedding_size=64", "--with-seen", "--json"]
    code, out, err = run("shrink", *args)
    assert code == 0 and "recall@20 0." not in err, err
    answer = json.loads(out)
    chosen = answer["chosen"]
    assert (chosen["method"], chosen["precision"], chosen["bytes"]) == ("ials", "int4", 800 * 10)
    assert chosen["validation"]["loss"] < 0 < chosen["quality"]["recall@20"]
    assert chosen["top_k_latency"]["1"]["p50_seconds"] > 0
    record = store.read(chosen["run"])
    (at_int4,) = (row for row in record["stored"] if row["precision"] == "int4")
    assert at_int4["quality"]["recall@20"] == chosen["quality"]["recall@20"]
    page = Path("shrunk.md").read_text()
    assert ", int4" in page and "keeps no rows of users" in page
    code, out, err = run(*shlex.split(chosen["command"])[1:], "--json")
    assert code == 0 and json.loads(out)["id"] == chosen["run"], err
    code, out, _ = run("recommend", "--model", "shrunk.safetensors", "--user", "5", "--k", "3")
    assert code == 0 and len(out.splitlines()) == 4


def test_time_failures_and_protocols() -> None:
    made = Made(dense=1.0)
    found = made.found(Goal(within=0.0), seconds=5)
    assert "dsl" not in made.asked and "narrow" not in made.asked and "svd" in made.asked
    assert any("it takes about 10 s, and 5 s are left" in line for line in found.left_out)
    found = Made(dense=1.0, mde=-1).found(Goal(within=0.0))
    assert "MDE 50%: it broke" in found.left_out and found.chosen is not None
    with pytest.raises(UsageError, match="no validation part"):
        made.found(Goal(within=0.01), dense=DENSE.model_copy(update={"protocol": "paper"}))
    with pytest.raises(RunError, match="found nothing on validation"):
        Made(dense=0.0).found(Goal(within=0.01))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--within", "100%"], "no share of dense's quality"), (["--within", "few"], "no share"),
        (["--within", "1%", "--to", "0.1"], "exclude each other"), (["--to", "0"], "is no size"),
        (["--time", "5"], "is no duration"), (["--time", "0s"], "is no duration"),
        (["--export", "/"], "cannot write /"), (["--evidence", "page.pdf"], "pdf"),
        (["--within", ""], "no share"), (["--to", "200%"], "--to 50%"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--export", "a.md", "--evidence", "./a.md"], "name one file"),
    ],
)  # fmt: skip
def test_bad_input(
    args: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("shrink", *SMALL, *args)
    assert code == 2 and out == "" and said in err and "Traceback" not in err, err
    assert list(tmp_path.glob("shrunk*")) == []


@pytest.mark.parametrize("dataset", ["orders.csv", "mine"])
@pytest.mark.parametrize("option", ["--export", "--evidence"])
def test_data_are_not_written_over(
    dataset: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for path in (Path("orders.csv"), Path("mine/orders.csv")):
        path.write_text("u,i\n1,2\n")
    target = "mine/orders.csv" if dataset == "mine" else "./orders.csv"
    code, _, err = run("shrink", *SMALL[2:], "--dataset", dataset, option, target)
    assert code == 2 and "is the data that is read" in err
    assert Path(target).read_text() == "u,i\n1,2\n"


def test_from_a_command_to_a_model_and_its_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs_in_this_process: None
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("shrink", *SMALL, "--within", "2%", "--with-seen", "--json")
    assert code == 0, err
    assert "seed 0: trained" in err and "next: " in err
    assert "recall@20" not in err and "to make" not in err  # nothing of test while it is searched
    answer = json.loads(out)
    chosen, dense = answer["chosen"], answer["dense"]
    assert (
        dense["of_dense"] == 1 and dense["precision"] == "fp32" and dense["bytes"] == 1800 * 8 * 4
    )
    assert chosen["bytes"] == min(t["bytes"] for t in answer["tried"] if t["fits"])
    assert chosen["validation"]["loss"] <= 0.02 and 0 <= chosen["quality"]["recall@20"] <= 1
    assert chosen["top_k_latency"]["1"]["p50_seconds"] > 0
    packed = artefact.read("shrunk.safetensors")
    assert sum(table.nbytes for table in packed.tables.values()) == chosen["bytes"]
    page = Path("shrunk.md").read_text()
    assert answer["answer"].split(":")[0] in page and "Test was looked at once" in page
    on_test = chosen["quality"]["recall@20"] / dense["quality"]["recall@20"] - 1
    assert f", {on_test:+.1%} on test" in answer["answer"]
    assert answer["ended"] and "interrupted" not in page
    assert "Seeds: 0 (one run per row" in page
    code, out, _ = run("recommend", "--model", "shrunk.safetensors", "--user", "5", "--k", "3")
    assert code == 0 and len(out.splitlines()) == 4
    # every row can be made again: it is the run that is stored
    for one in answer["tried"]:
        words = shlex.split(one["command"])
        assert words[0] == "dslbench"
        code, out, err = run(*words[1:], "--json")
        assert code == 0 and json.loads(out)["id"] == one["run"], err
        assert "1 stored, 0 to make" in err
    # again: nothing is trained, the same is chosen
    before = {r["id"] for r in store.read_all(pytest.fail)}
    code, out, err = run("shrink", *SMALL, "--within", "2%", "--json")
    assert code == 0 and {r["id"] for r in store.read_all(pytest.fail)} == before
    again = json.loads(out)["chosen"]
    assert (again["run"], again["precision"]) == (chosen["run"], chosen["precision"])


def test_an_interruption_keeps_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs_in_this_process: None
) -> None:
    monkeypatch.chdir(tmp_path)
    made = command.made

    def interrupted(spec: RunSpec, where: Any, digests: Any) -> dict[str, Any]:
        if spec.method != "dense":
            raise typer.Exit(130)
        return made(spec, where, digests)

    monkeypatch.setattr(command, "made", interrupted)
    code, out, err = run("shrink", *SMALL, "--within", "5%")
    assert code == 130 and "what was found by now is judged on test and written" in err
    assert "Baseline, " in out and Path("shrunk.safetensors").is_file()
    page = Path("shrunk.md").read_text()
    assert "The search was interrupted" in page
    for name in ("SVD 50%", "LSQ (precision=int2)", "WR 50%"):
        assert f"Left out: {name}: interrupted before it was tried." in page
