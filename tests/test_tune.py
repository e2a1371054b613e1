"""Tuning: the same trials for the same seed, the same number for each method, and no look at test."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli_helpers import run
from dslbench import data as datasets
from dslbench import presets, registry
from dslbench.errors import DivergedError, UsageError
from dslbench.ranges import Range, ranges_of
from dslbench.report import tuned
from dslbench.runs import failures, store
from dslbench.runs.worker.__main__ import perform
from dslbench.spec import RunSpec, resolve
from dslbench.tuning import campaign
from dslbench.tuning.campaign import Result, Setting
from dslbench.tuning.space import at_edge, rounded, space_of, values_of
from dslbench.tuning.study import Outcome, Search

pytest.importorskip("optuna")

TOY = Setting(
    "toy",
    "lightgcn",
    0.5,
    8,
    "quick",
    "default",
    ("embedding_size=8", "preset=official"),
    Search(6, seed=3),
)
SMALL = [
    "--backbone", "lightgcn", "--dataset", "toy", "--epochs", "1", "--set", "preset=official",
    "--set", "embedding_size=8",
]  # fmt: skip


# --------------------------------------------------------------------------------- search spaces


@pytest.mark.parametrize("name", [*registry.names("backbone"), *registry.names("method")])
def test_the_ends_of_every_range_are_values_of_its_field(name: str) -> None:
    is_method = name in registry.names("method")
    kind = registry.method(name).options_type if is_method else registry.backbone(name).hyper_type
    for key, one in ranges_of(kind).items():
        for end in one.choices or (one.within(30_000).low, one.within(30_000).high):
            value = int(end) if one.whole else end  # type: ignore[arg-type]
            spec = resolve(
                dataset="toy", backbone="lightgcn" if is_method else name, sparsity=0.5, seed=0,
                method=name if is_method else "dense", scale="paper",
                settings=[f"{name + '.' if is_method else ''}{key}={json.dumps(value)}"],
            )  # fmt: skip
            assert (spec.options if is_method else spec.hyper)[key] == value
        assert one.choices or not one.log or (one.low or 0) > 0


def test_what_is_searched_of_whom() -> None:
    def keys(method: str, which: Any = "own", *settings: str) -> set[str]:
        spec = replace(TOY, settings=("preset=official", *settings)).run(method, {})
        return set(space_of(spec, which, settings, 600)[0])

    assert keys("dense") == {"lr", "layers", "reg"}
    assert keys("dense", "own", "lr=0.01") == {"layers", "reg"}  # what the user set stays
    assert keys("dsl") == {"dsl.rho0", "dsl.delta_t", "dsl.grow_score"}
    assert keys("dsl", "all", "dsl.rho0=0.2") == {"dsl.delta_t", "dsl.grow_score", "lr", "reg"}
    assert keys("rp") == {"lr", "reg"}  # none of its own, and a training of its own
    assert keys("svd") == set()  # its training is dense's
    space, _ = space_of(TOY.run("dsl", {}), "own", (), 60_000)
    assert space["dsl.delta_t"] == Range(150, 3000, log=True, whole=True)
    short, _ = space_of(TOY.run("dsl", {}), "own", (), 560)
    assert short["dsl.delta_t"] == Range(10, 28, log=True, whole=True)  # at 1 nothing is trained
    assert values_of(TOY.run("dsl", {}), space) == {"dsl.rho0": 0.5}  # none is no value


def test_edges_and_digits() -> None:
    log, plain, whole = Range(1e-4, 1e-2, log=True), Range(0.0, 0.5), Range(1, 4, whole=True)
    assert at_edge(log, 1.05e-4) and at_edge(log, 0.0099) and not at_edge(log, 2e-4)
    assert at_edge(plain, 0.0) and not at_edge(plain, 0.1) and not at_edge(plain, 0.7)
    assert at_edge(whole, 4) and not at_edge(whole, 3)
    assert not at_edge(Range(choices=("a", "b")), "a")
    assert rounded(log, 0.00123456) == 0.001235
    assert rounded(log, 0.0001000001) == 1e-4 and rounded(whole, 3) == 3


# --------------------------------------------------------------------------------------- trials


class Made:
    """Runs that take no time; quality is a function of the spec. Knows what it made, as the store does."""

    def __init__(self, quality: Callable[[RunSpec], float | None]) -> None:
        self.quality, self.known, self.asked = quality, dict[str, Outcome](), list[RunSpec]()
        self.stop_after: int | None = None

    def __call__(self, specs: Sequence[RunSpec]) -> list[Outcome]:
        found = []
        for spec in specs:
            self.asked.append(spec)
            key = spec.identity({})
            if key not in self.known:
                if self.stop_after is not None and len(self.known) == self.stop_after:
                    raise KeyboardInterrupt
                reached = self.quality(spec)
                shared = {("teacher", one): (250, 2.5) for one in "ab"} if spec.teacher else {}
                why = "" if reached is not None else "the loss became nan"
                self.known[key] = Outcome(key, reached, why, 10 * spec.epochs, 1.0, shared, 600)
            found.append(self.known[key])
        return found


def by_rate(spec: RunSpec) -> float:
    """Best at lr 0.003 and rho0 0.3."""
    off = abs(spec.hyper["lr"] - 0.003) * 20 + abs(spec.options.get("rho0", 0.3) - 0.3)
    return 0.3 / (1 + off)


def tune(made: Made, *methods: str, setting: Setting = TOY) -> Result:
    return campaign.tune(setting, methods, made, lambda text: None)


def tried(result: Result) -> list[list[tuple[dict[str, Any], float | None]]]:
    return [[(t.values, t.outcome.quality) for t in one.trials] for one in result.found]


def test_same_seed_same_trials_and_as_many_for_each() -> None:
    result = tune(Made(by_rate), "dense", "dsl", "rp")
    assert [one.method for one in result.found] == ["dense", "dsl", "rp"]
    assert [len(one.trials) for one in result.found] == [6, 6, 6]
    dense, rp, dsl = tried(tune(Made(by_rate), "rp", "dsl"))  # in whatever order they are named
    assert tried(result) == [dense, dsl, rp]
    other = replace(TOY, search=Search(6, seed=4))
    assert tried(tune(Made(by_rate), "dense", setting=other)) != tried(result)[:1]
    for one in result.found:
        first = one.trials[0]
        assert first.how == "published" and first.spec.changed_hyper == {"embedding_size": 8}
        assert first.spec.changed_options == {}
        assert one.gain is not None and one.gain >= 0
        assert len({t.spec.identity({}) for t in one.trials}) == 6
    best, of_dsl, of_rp = result.found
    for method in (
        of_dsl,
        of_rp,
    ):  # all but the first stand at dense's choice, in what they do not search
        for trial in method.trials[1:]:
            assert trial.spec.hyper["layers"] == best.chosen.spec.hyper["layers"]
    assert all(t.spec.hyper == best.chosen.spec.hyper for t in of_dsl.trials[1:])
    assert of_dsl.trials[1].how == "carried" and of_dsl.trials[2].how == "searched"
    assert all(t.spec.judged_on == "valid" for one in result.found for t in one.trials)


@pytest.mark.parametrize("pruner", ["none", "median"])
def test_broken_off_and_gone_on_is_the_same(pruner: Any) -> None:
    setting = replace(TOY, search=replace(TOY.search, pruner=pruner))
    whole = tune(Made(by_rate), "dense", "dsl", setting=setting)
    made = Made(by_rate)
    for stop in (0, 1, 4, 7, 9):
        made.stop_after = stop
        with pytest.raises(KeyboardInterrupt):
            tune(made, "dense", "dsl", setting=setting)
    made.stop_after = None
    again = tune(made, "dense", "dsl", setting=setting)
    assert tried(again) == tried(whole)
    assert [one.chosen.spec for one in again.found] == [one.chosen.spec for one in whole.found]


def test_one_that_diverges_is_billed_and_tuning_goes_on() -> None:
    def quality(spec: RunSpec) -> float | None:
        return None if spec.hyper["lr"] > 0.0015 else by_rate(spec)

    dense = tune(Made(quality), "dense").found[0]
    assert len(dense.trials) == 6 and 0 < len(dense.ended) < 6
    assert dense.cost == (6 * 80, 6.0)
    assert dense.chosen.outcome.quality is not None
    (table,) = tuned.tables(tune(Made(quality), "dense"))
    assert any("failed: the loss became nan" in line for line in table.footer)
    with pytest.raises(Exception, match="no trial of the dense run"):
        tune(Made(lambda spec: None), "dense")
    only_dense = Made(lambda spec: by_rate(spec) if spec.method == "dense" else None)
    assert tune(only_dense, "dsl").left_out == [
        "dsl: no trial came to an end (the loss became nan)"
    ]


def test_a_dense_run_that_is_learnt_from_is_billed_once() -> None:
    made = Made(by_rate)
    svd, rkd = tune(made, "svd", "rkd").found[1:]
    assert [t.how for t in svd.trials] == ["published", "carried"]  # nothing to search
    assert len(rkd.trials) == 6 and rkd.cost == (6 * 80 + 500, 6.0 + 5.0)
    dense_runs = {spec.as_dense.identity({}) for spec in made.asked if spec.method == "rkd"}
    assert dense_runs <= {t.outcome.run for t in tune(made, "dense").found[0].trials}


def test_a_pruner_gives_up_by_shorter_runs() -> None:
    setting = replace(TOY, search=Search(8, seed=1, pruner="halving"))
    made = Made(by_rate)
    dense, omp = tune(made, "dense", "omp", setting=setting).found
    given_up = [t for t in dense.trials if t.outcome.reason.startswith("given up after")]
    assert given_up and dense.ended and len(dense.trials) == 8
    assert {spec.epochs for spec in made.asked if spec.method == "dense"} == {2, 4, 8}
    assert {spec.epochs for spec in made.asked if spec.method == "omp"} == {8}  # rounds
    assert len(omp.trials) == 8
    one = given_up[0]
    assert one.outcome.macs in (20, 40) and one.outcome.quality is None


def test_bad_values_and_small_spaces() -> None:
    setting = replace(TOY, settings=("preset=official", "lr=0.001", "reg=0.0001"))
    dense = tune(Made(lambda spec: 0.1), "dense", setting=setting).found[0]
    assert sorted(t.values["layers"] for t in dense.trials) == [1, 2, 3, 4]  # and no more
    left = tune(Made(by_rate), "narrow", setting=replace(TOY, sparsity=0.95)).left_out
    assert len(left) == 1 and left[0].startswith("narrow: ")


# ---------------------------------------------------------------------------------------- files


def test_a_field_that_came_later_may_be_set_back_to_what_was() -> None:
    setting = replace(TOY, settings=("embedding_size=8", "preset=fast", "negatives=1"))
    result = tune(Made(by_rate), "dense", setting=setting)
    found = campaign.preset(result, {"train": "abc", "valid": "def"})
    assert found.hyper.get("negatives", 1) == 1


def test_a_preset_file_has_each_methods_choice(tmp_path: Path, capsys: Any) -> None:
    result = tune(Made(by_rate), "dense", "dsl", "rp")
    file = campaign.preset(result, {"train": "abc", "valid": "def", "test": None})
    path = tmp_path / "own.toml"
    path.write_text(file.text())
    found, name = presets.read(str(path))
    assert found == file and name.startswith(f"{path}@")
    assert "6 trials of each method at 8 epochs, tpe, seed 3" in found.source

    def used(method: str, dataset: str = "toy", *settings: str) -> RunSpec:
        return resolve(
            dataset=dataset, backbone="lightgcn", method=method, sparsity=0.5, seed=0, epochs=8,
            settings=[f"preset={path}", *settings],
        )  # fmt: skip

    for one in result.found:
        spec = used(one.method)
        chosen = one.chosen.spec
        assert (spec.hyper, spec.options) == (chosen.hyper, chosen.options)
        assert spec.changed_hyper == {} == spec.changed_options and spec.full_epochs == 300
        assert spec.at_epochs(4).hyper == spec.hyper
    assert used("dsl", "toy", "dsl.rho0=0.7").changed_options == {"rho0": 0.7}
    # where the file lies is not part of the run
    other = tmp_path / "moved.toml"
    other.write_text(file.text())
    moved = resolve(
        dataset="toy", backbone="lightgcn", method="dsl", sparsity=0.5, seed=0, epochs=8,
        settings=[f"preset={other}"],
    )  # fmt: skip
    assert moved.identity({}) == used("dsl").identity({})
    used("dsl", "gowalla")
    assert "was tuned on 'toy', not on 'gowalla'" in capsys.readouterr().err
    for text, backbone, said in (
        (file.text(), "neumf", "was tuned for lightgcn, not for neumf"),
        ("a = ", "lightgcn", "is no preset"), ("format = 1", "lightgcn", "'source': field required"),
        (None, "lightgcn", "cannot be read"), (file.text() + "# new", "lightgcn", "has changed"),
    ):  # fmt: skip
        path.unlink()
        if text is not None:
            path.write_text(text)
        preset = name if said == "has changed" else str(path)
        with pytest.raises(UsageError, match=said):
            resolve(
                dataset="toy", backbone=backbone, method="dense", sparsity=0, seed=0,
                settings=[f"preset={preset}"],
            )  # fmt: skip
        path.write_text(file.text())


# ------------------------------------------------------------------------------------- commands


def test_from_a_command_to_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs_in_this_process: None
) -> None:
    monkeypatch.chdir(tmp_path)
    load, seen = datasets.load, list[int]()

    def watched(*args: Any, **options: Any) -> Any:
        found = load(*args, **options)
        seen.append(found.test.nnz)
        return found

    monkeypatch.setattr(datasets, "load", watched)
    args = ["tune", *SMALL, "--method", "dense", "--method", "rp", "--trials", "3"]
    code, out, err = run(*args)
    assert code == 0, err
    assert seen and set(seen) == {0}  # the test part is in no trial's hands
    monkeypatch.setattr(datasets, "load", load)
    assert "Baseline" in out and "RP" in out and "Tuned on validation: toy" in out
    assert [f"[{n}/6] " in err for n in range(1, 8)] == [True] * 6 + [False], err
    records = store.read_all(pytest.fail)
    assert len(records) == 6
    for record in records:
        assert record["spec"]["judged_on"] == "valid" == record["selection"]["on"]
        assert record["data"]["test_digest"] is None and record["data"]["test_pairs"] == 0
    code, out, err = run("report")
    assert code == 2 and "no stored runs" in err  # trials stand in no table
    code, out, _ = run("list", "runs")
    assert out.count("trial, on validation") == 6
    # again: nothing is made, the same is chosen
    before = Path("lightgcn-toy.toml").read_text()
    code, out, err = run(*args, "--json")
    assert code == 0 and Path("lightgcn-toy.toml").read_text() == before
    assert len(store.read_all(pytest.fail)) == 6 and "6 runs: 6 known before, 0 made" in err
    answer = json.loads(out)
    assert [t["how"] for t in answer["methods"]["rp"]["trials"]].count("published") == 1
    # another choice does not take the first one's place
    code, _, err = run(*args, "--trials", "1")
    assert code == 0 and "what was there is kept: lightgcn-toy-1.toml" in err
    assert (
        Path("lightgcn-toy-1.toml").read_text() == before != Path("lightgcn-toy.toml").read_text()
    )
    Path("lightgcn-toy-1.toml").replace("lightgcn-toy.toml")
    # used: one table although the methods have learning rates of their own
    compare = ["compare", *SMALL[:-4], "--method", "dense", "--method", "rp"]
    code, out, err = run(*compare, "--set", "preset=lightgcn-toy.toml", "--format", "markdown")
    assert code == 0, err
    assert out.count("Table 3") == 1 and "Gain (valid.)" in out and "MACs with tuning" in out
    rows = [line for line in out.splitlines() if line.startswith("| ")]
    assert any("RP" in row and "%" in row for row in rows)
    # another file of the same dense values: its stored run stands beside what is new, in one table
    Path("other.toml").write_text(before.replace("tuned: ", "tuned again: "))
    other = [*compare[:-1], "narrow", "--set", "preset=other.toml", "--format", "markdown"]
    code, out, err = run(*other)
    assert code == 0 and "2 runs: 1 stored, 1 to make" in err, err
    assert out.count("Table 3") == 1 and "lightgcn-toy.toml" not in out
    code, out, err = run(*compare, *SMALL[-4:], "--tune", "3", "--format", "markdown")
    assert code == 0 and "Gain (valid.)" in out, err
    assert "0 to make" not in err.partition("what was chosen is kept")[0]
    assert len(store.read_all(pytest.fail)) == 9


def test_a_run_that_diverges_has_a_bill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs_in_this_process: None
) -> None:
    monkeypatch.chdir(tmp_path)
    wild = TOY.run("dense", {"lr": 1e38, "reg": 1e30})
    with pytest.raises(DivergedError) as caught:
        perform({"task": "run", "spec": wild.model_dump(), "device": "cpu"}, lambda event: None)
    assert caught.value.bill is not None
    assert caught.value.bill["macs"] > 0 and caught.value.bill["seconds"] > 0
    code, _, err = run("tune", *SMALL, "--set", "lr=1e38", "--set", "reg=1e30", "--trials", "2")
    assert code == 1 and "no trial of the dense run came to an end" in err
    found = failures.read_all(pytest.fail)
    assert found and all(one.bill and one.bill["macs"] for one in found)
    code, _, again = run("tune", *SMALL, "--set", "lr=1e38", "--set", "reg=1e30", "--trials", "2")
    assert code == 1 and "[1/" in err and "[1/" not in again  # it is known to diverge


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--method", "dls"], "unknown method 'dls'"), (["--trials", "0"], "trials"),
        (["--method", "ease"], "by itself"),
        (["--set", "dsl.rho0=0.2", "--method", "rp"], "dsl is not run"),
        (["--protocol", "paper"], "no validation part"), (["--output", "/"], "cannot write /"),
        (["--sparsity", "1.5"], "outside"), (["--scale", "quick"], "exclude each other"),
    ],
)  # fmt: skip
def test_bad_input(
    args: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    runs_in_this_process: None,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, out, err = run("tune", *SMALL, *args)
    assert code == 2 and out == "" and said in err and "Traceback" not in err, err
    assert list(tmp_path.glob("*.toml")) == [] and "trials each" not in err


def test_without_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = run("tune", *SMALL)
    assert code == 2 and "needs Optuna" in err and "pip install 'dslbench[tune]'" in err
