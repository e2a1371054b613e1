"""Plans: what they expand to, what replaces what, and where their errors point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dslbench import registry
from dslbench.cli.comparison import check_shown
from dslbench.errors import UsageError
from dslbench.report.build import FIGURES, TABLES
from dslbench.runs import plan
from dslbench.runs.plan import Chosen
from dslbench.spec import RunSpec

OWN = """\
title = "Mine"
table = "4"

[[grid]]
backbone = "lightgcn"
method = "dsl"
sparsity = [0.5, 0.8]
seeds = 2
set = { "dsl.decay" = ["cosine", "linear"], lr = 0.01 }

[[grid]]
backbone = ["lightgcn", "multvae"]
method = ["dense", "dsl"]
scale = "laptop"
"""


def runs(text: str, **chosen: Any) -> list[RunSpec]:
    return plan.runs(plan.parse("own.toml", text), Chosen(**chosen), "toy")[0]


def test_a_grid_is_every_combination() -> None:
    found = runs(OWN)
    first = [s for s in found if s.hyper["lr"] == 0.01 and s.backbone == "lightgcn"]
    assert {(s.sparsity, s.options["decay"], s.seed) for s in first} == {
        (s, d, n) for s in (0.5, 0.8) for d in ("cosine", "linear") for n in (0, 1)
    }
    assert len(first) == 8 and all(s.hyper["lr"] == 0.01 and s.dataset == "toy" for s in first)
    rest = [(s.backbone, s.method) for s in found if s not in first]
    assert rest == [
        ("lightgcn", "dense"),
        ("lightgcn", "dsl"),
        ("multvae", "dense"),
        ("multvae", "dsl"),
    ]


def test_the_command_line_replaces_what_the_plan_says() -> None:
    found = runs(OWN, scale="quick", seeds=1, sparsity=[0.3], settings=("lr=0.02",))
    assert {s.seed for s in found} == {0} and {s.scale for s in found} == {"quick"}
    assert {s.sparsity for s in found} == {0.0, 0.3}
    assert {s.hyper["lr"] for s in found} == {0.02}
    assert len({s.model_dump_json() for s in found}) == len(found)  # none twice
    assert {s.epochs for s in runs(OWN, epochs=3)} == {3}


def test_options_of_other_methods_do_not_multiply_runs() -> None:
    text = OWN.replace('method = "dsl"', 'method = ["dense", "dsl"]')
    dense = [s for s in runs(text) if s.method == "dense" and s.hyper["lr"] == 0.01]
    assert sorted(s.seed for s in dense) == [0, 1]


def test_a_setting_that_is_a_list_stands_in_a_list() -> None:
    text = 'title = "x"\n[[grid]]\nbackbone = "neumf"\nmethod = "dense"\nset = { hidden = [[32, 16]] }\n'
    (spec,) = runs(text)
    assert spec.hyper["hidden"] == [32, 16]


def test_without_a_plan_every_method_that_applies_is_run() -> None:
    for backbone in registry.names("backbone"):
        refused = registry.backbone(backbone).refuses
        found, left_out = plan.runs(plan.of_command_line(backbone), Chosen(), "toy")
        assert [s.method for s in found] == [
            m for m in registry.usual_methods() if m not in refused
        ]
        assert len(left_out) == len(set(refused) & set(registry.usual_methods()))


def test_what_is_unsuitable_is_left_out_unless_it_was_named() -> None:
    text = OWN.replace('method = "dsl"', 'method = ["dense", "rkd"]')
    text = text.replace("sparsity = [", "sparsity = [0.999, ").replace("dsl.decay", "rkd.variant")
    text = text.replace('["cosine", "linear"]', '"default"')
    file = plan.parse("own", text)
    found, left_out = plan.runs(file, Chosen(), "toy")
    assert any(line.startswith("rkd at sparsity 0.999") for line in left_out)
    assert any(s.method == "dense" for s in found)
    assert not any(s.method == "rkd" and s.sparsity == 0.999 for s in found)
    with pytest.raises(UsageError, match="less than 1"):
        plan.runs(file, Chosen(method=["rkd"]), "toy")


@pytest.mark.parametrize(
    ("old", "new", "line", "message", "hint"),
    [
        ("seeds = 2", "sedes = 2", 8, "unknown key 'sedes'", "did you mean 'seeds'?"),
        ('table = "4"', 'tabel = "4"', 2, "unknown key 'tabel'", "did you mean 'table'?"),
        ('"multvae"', '"multave"', 12, "unknown backbone 'multave'", "did you mean 'multvae'?"),
        ('"dense", "dsl"', '"dense", "dsll"', 13, "unknown method 'dsll'", "did you mean 'dsl'?"),
        ("dsl.decay", "dsl.decai", 9, "unknown setting 'decai'", "did you mean 'decay'?"),
        ('"linear"', '"liner"', 9, "setting 'decay' of dsl", None),
        ("lr = 0.01", "lrr = 0.01", 9, "unknown setting 'lrr'", "did you mean 'lr'?"),
        (
            'scale = "laptop"',
            'scale = "laptob"',
            14,
            "unknown scale 'laptob'",
            "did you mean 'laptop'?",
        ),
        ("[0.5, 0.8]", "[0.5, 8]", 7, "'sparsity': input should be less than 1 (got 8", None),
        ("[0.5, 0.8]", "[]", 7, "'sparsity' is an empty list", "leave sparsity out"),
        ('"dsl"\n', "[]\n", 6, "'method' is an empty list", "leave method out"),
        ('["lightgcn", "multvae"]', "[]", 12, "'backbone' is an empty list", "name a value"),
        ("lr = 0.01", "lr = []", 9, "'lr' is an empty list", "leave lr out"),
        (
            "seeds = 2",
            "epochs = 0",
            8,
            "'epochs': input should be greater than or equal to 1",
            None,
        ),
        ("seeds = 2", "epochs = [5, 0]", 8, "'epochs': input should be greater", None),
        ('scale = "laptop"', 'scale = "laptop"\nepochs = 3', 14, "'scale': leave it out", None),
        ('table = "4"', 'figure = "2"\ntable = "4"', 2, "'figure': leave it out", None),
        ("dsl.decay", "rkd.k", 9, "'set': 'rkd.k' has no effect without method 'rkd'", None),
        ("[0.5, 0.8]", '"half"', 7, "'sparsity': input should be a valid number", None),
        (
            "[0.5, 0.8]",
            '["0.5"]',
            7,
            "'sparsity': input should be a valid number",
            "without quotes",
        ),
        ("seeds = 2", "seeds = true", 8, "'seeds': input should be a valid integer", None),
        ("seeds = 2", "epochs = 5.0", 8, "'epochs': input should be a valid integer", None),
        ("seeds = 2", "seeds = 0", 8, "'seeds': input should be greater than", None),
        ('backbone = "lightgcn"\n', "", 4, "'backbone' is missing", None),
        ("[[grid]]", "[[grid]", 4, "not valid TOML", None),
        ('"Mine"', '"Mine', 1, "not valid TOML", None),
        (
            "lr = 0.01 }",
            "lr = 0.01 }\nrho0 = 0.3",
            10,
            "unknown key 'rho0'",
            "set = { rho0 = ... }",
        ),
    ],
)
def test_an_error_names_the_line(
    old: str, new: str, line: int, message: str, hint: str | None
) -> None:
    text = OWN.replace(old, new, 1)
    assert text != OWN
    with pytest.raises(UsageError) as caught:
        runs(text)
    assert caught.value.message.startswith(f"own.toml, line {line}: {message}")
    assert (hint or "") in (caught.value.hint or "")


def test_a_table_that_does_not_exist_is_found_before_training() -> None:
    with pytest.raises(UsageError, match=r"own.toml, line 2: no table '44'"):
        check_shown(plan.parse("own.toml", OWN.replace('"4"', '"44"')))


def test_an_unknown_data_set_is_found_before_training() -> None:
    text = OWN.replace("sparsity", 'dataset = ["toy", "gowala", "no/such.csv"]\nsparsity')
    with pytest.raises(UsageError, match=r"own.toml, line 7: unknown data set 'gowala'") as caught:
        plan.check_datasets(plan.parse("own.toml", text))
    assert caught.value.hint == "did you mean 'gowalla'?"


def test_where_a_plan_is_read_from(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    assert plan.read(str(path)).plan.title == "Mine"
    with pytest.raises(UsageError, match="unknown plan 'tabel2'") as caught:
        plan.read("tabel2")
    assert caught.value.hint == "did you mean 'table2'?"
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        plan.read(str(tmp_path / "none.toml"))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not a text file"):
        plan.read(str(path))


@pytest.mark.parametrize("name", plan.names())
def test_every_plan_that_comes_along_resolves(name: str) -> None:
    file = plan.read(name)
    check_shown(file)
    specs, _ = plan.runs(file, Chosen(), "toy")
    assert specs and file.plan.title
    assert (file.plan.table in TABLES) or (file.plan.figure in FIGURES)
    on_toy, _ = plan.runs(file, Chosen(dataset="toy", scale="quick"), "toy")
    assert {s.dataset for s in on_toy} == {"toy"}


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('title = "x"\n[[grid]]\nbackbne = "lightgcn"\n', "line 3: unknown key 'backbne'", "backbone"),
        ('titel = "x"\n[[grid]]\nbackbone = "lightgcn"\n', "line 1: unknown key 'titel'", "title"),
    ],
)  # fmt: skip
def test_a_misspelt_key_that_is_needed_is_named_and_not_the_missing_one(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    path = tmp_path / "typo.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message) as caught:
        plan.read(str(path))
    assert caught.value.hint == f"did you mean '{hint}'?"
