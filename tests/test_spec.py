"""Runs are resolved fully, refused with the closest name, and identified by what decides them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dslbench import registry, versions
from dslbench.data.interactions import pairs_to_csr
from dslbench.errors import UsageError
from dslbench.runs.assemble import full_hyper
from dslbench.spec import RunSpec, resolve
from helpers import make_interactions

DIGESTS = {"train": "a", "valid": "b", "test": "c"}


def spec(**changes: Any) -> RunSpec:
    arguments: dict[str, Any] = {
        "dataset": "gowalla", "backbone": "lightgcn", "method": "dsl", "sparsity": 0.5, "seed": 0,
    }  # fmt: skip
    return resolve(**(arguments | changes))


def official(**changes: Any) -> RunSpec:
    return spec(**changes | {"settings": ["preset=official", *changes.get("settings", ())]})


def test_the_fast_preset_in_full_is_the_default() -> None:
    found = spec()
    assert found.preset == "fast" and found.scale == "paper"
    assert found.epochs == found.full_epochs < 1000
    assert spec(settings=["preset=fast"]) == found


@pytest.mark.parametrize("backbone", registry.names("backbone"))
def test_every_backbone_has_an_official_recipe_and_says_whether_there_is_a_fast_one(
    backbone: str,
) -> None:
    presets = registry.backbone(backbone).presets()
    official = spec(backbone=backbone, method="dense", settings=["preset=official"])
    assert official.preset != "fast"
    usual = spec(backbone=backbone, method="dense")
    assert usual.preset == presets["default"] == ("fast" if "fast" in presets else "official")
    assert "source" in presets[usual.preset]


def test_data_of_ones_own_take_the_values_for_their_size(tmp_path: Path) -> None:
    tiers = registry.backbone("lightgcn").presets()["fast"]["by_size"]
    limits = [tier.get("up_to", math.inf) for tier in tiers]
    assert limits == sorted(limits) and limits[-1] == math.inf
    file = tmp_path / "orders.csv"
    file.write_text("user,item\n" + "".join(f"u{i % 40},i{i % 37}\n" for i in range(400)))
    found = spec(dataset=str(file))
    assert found.hyper["batch_size"] == tiers[0]["batch_size"]
    assert found.epochs == tiers[0]["epochs"]
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # the next run of a comparison does not read it again
        patch.setattr("dslbench.data.loading.load", None)
        assert spec(dataset=str(file), seed=1).epochs == found.epochs
    # Of the catalog's data sets the published size is taken: nothing is read.
    assert spec(dataset="yelp2018").epochs == tiers[-1]["epochs"]


def test_the_official_preset() -> None:
    found = official()
    assert found.preset == "official"
    assert found.epochs == found.full_epochs == 1000
    expected = {"embedding_size": 64, "layers": 3, "batch_size": 2048, "lr": 1e-3, "reg": 1e-4}
    assert {key: found.hyper[key] for key in expected} == expected
    assert (found.hyper["init"], found.hyper["init_std"]) == ("normal", 0.1)


def test_the_dsl_preset_and_a_preset_by_data_set() -> None:
    found = spec(settings=["preset=dsl"])
    assert (found.hyper["lr"], found.hyper["lr_end"], found.hyper["batch_size"]) == (
        1e-2,
        1e-4,
        1024,
    )
    assert found.hyper["init"] == "xavier"
    assert official(dataset="amazon-book").hyper["batch_size"] == 8192


@pytest.mark.parametrize(
    ("arguments", "epochs", "scale"),
    [
        ({"scale": "quick"}, 10, "quick"),
        ({"scale": "laptop"}, 100, "laptop"),
        ({"scale": "paper"}, 1000, "paper"),
        ({"epochs": 7}, 7, "custom"),
        ({"epochs": 1000}, 1000, "paper"),
    ],
)
def test_scale_sets_epochs_and_nothing_else(
    arguments: dict[str, Any], epochs: int, scale: str
) -> None:
    found = official(**arguments)
    assert (found.epochs, found.scale) == (epochs, scale)
    assert found.hyper == official(scale="paper").hyper


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ({"sparsity": 1.0}, r"sparsity 1 is outside \[0, 1\)", "--sparsity"),
        ({"sparsity": -0.1}, r"sparsity -0.1 is outside", "--sparsity"),
        ({"backbone": "lightgnc"}, "unknown backbone 'lightgnc'", "did you mean 'lightgcn'"),
        ({"method": "dsll"}, "unknown method 'dsll'", "did you mean 'dsl'"),
        ({"settings": ["lrr=1"]}, "unknown setting 'lrr' of lightgcn", "did you mean 'lr'"),
        ({"settings": ["dsl.rho=1"]}, "unknown setting 'rho' of dsl", "did you mean 'rho0'"),
        ({"settings": ["dsll.rho0=1"]}, "unknown method 'dsll'", "did you mean 'dsl'"),
        ({"settings": ["lr"]}, "is not KEY=VALUE", "--set lr=0.01"),
        ({"settings": ["lr=fast"]}, "setting 'lr' of lightgcn: .*number", None),
        ({"settings": ["lr=-1"]}, "setting 'lr' of lightgcn: .*greater than 0", None),
        ({"settings": ["dsl.decay=cosin"]}, "setting 'decay' of dsl", None),
        ({"settings": ["epochs=5"]}, "epochs is set by an option", "--epochs 5"),
        ({"settings": ["preset=offical"]}, "unknown preset 'offical'", "did you mean 'official'"),
        ({"settings": ["dsl.variant=offical"]}, "unknown variant", "did you mean 'official'"),
        ({"scale": "fast"}, "unknown scale 'fast'", "known"),
        ({"protocol": "papr"}, "unknown protocol 'papr'", "did you mean 'paper'"),
        ({"epochs": 0}, "--epochs 0 is less than 1", None),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: dict[str, Any], message: str, hint: str | None
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        spec(**arguments)
    assert caught.value.exit_code == 2
    if hint:
        assert hint in (caught.value.hint or "")


def test_identity_holds_what_decides_the_result() -> None:
    base = official(epochs=10)
    assert base.identity(DIGESTS) == official(scale="quick").identity(DIGESTS)  # same epochs
    assert base.identity(DIGESTS) != base.identity(DIGESTS | {"train": "x"})
    changed = [
        official(epochs=11), official(epochs=10, seed=1), official(epochs=10, sparsity=0.6),
        official(epochs=10, settings=["dsl.rho0=0.3"]), official(epochs=10, settings=["lr=0.01"]),
        official(epochs=10, method="rp"), official(epochs=10, protocol="paper"),
    ]  # fmt: skip
    ids = {base.identity(DIGESTS), *(s.identity(DIGESTS) for s in changed)}
    assert len(ids) == len(changed) + 1


def test_dense_has_no_sparsity_and_other_methods_options_do_not_touch_it() -> None:
    plain = official(method="dense", sparsity=0.5)
    assert plain.sparsity == 0.0
    other = official(method="dense", sparsity=0.8, settings=["dsl.rho0=0.3"])
    assert plain.identity(DIGESTS) == other.identity(DIGESTS)


def test_what_the_user_changed_is_recorded_but_not_part_of_the_identity() -> None:
    plain = official(epochs=10)
    same = official(epochs=10, settings=["lr=0.001", "dsl.rho0=0.5"])  # the preset's own values
    assert same.changed_hyper == {} and same.changed_options == {}
    assert same.identity(DIGESTS) == plain.identity(DIGESTS)
    other = official(epochs=10, settings=["lr=0.01", "dsl.rho0=0.3"])
    assert other.changed_hyper == {"lr": 0.01} and other.changed_options == {"rho0": 0.3}


def test_the_same_run_at_other_epochs() -> None:
    def neumf(epochs: int, *settings: str) -> RunSpec:
        return resolve(
            dataset="toy", backbone="neumf", method="dsl", sparsity=0.5, seed=1, epochs=epochs,
            settings=["dsl.delta_t=7", "lr=0.5", *settings],
        )  # fmt: skip

    assert neumf(5).at_epochs(11) == neumf(11)
    kept = neumf(5, "pretrain_epochs=3")
    assert kept.at_epochs(11) == neumf(11, "pretrain_epochs=3")
    record = kept.model_dump() | {"embedding_size": 8, "layers": None}
    assert RunSpec.of_record(record) == kept


def test_what_is_folded_in_for_held_out_users_is_part_of_the_identity() -> None:
    data = make_interactions()
    fold_in = [pairs_to_csr([0, 1], [2, item], data.train.shape) for item in (3, 4)]
    digests = [replace(data, fold_in=part).digests for part in fold_in]
    assert set(data.digests) == {"train", "valid", "test"}  # as ever without
    spec = resolve(dataset="toy", backbone="cdae", method="dense", sparsity=0, seed=0, epochs=1)
    assert len({spec.identity(found) for found in (*digests, data.digests)}) == 3


def test_a_shared_numeric_that_changes_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = resolve(dataset="toy", backbone="lightgcn", method="rp", sparsity=0.5, seed=0, epochs=1)
    before = spec.identity({})
    for part in versions.SHARED:
        monkeypatch.setitem(versions.SHARED, part, versions.SHARED[part] + 1)
        assert spec.identity({}) != before
        monkeypatch.setitem(versions.SHARED, part, versions.SHARED[part] - 1)
    assert spec.identity({}) == before and set(versions.SHARED) < set(spec.versions())


def test_a_field_that_was_added_changes_no_run_made_before() -> None:
    """At its old value it is in no spec, so that the hash of one is what it was."""
    usual, one, many = (
        spec(settings=["preset=official", *more]) for more in ([], ["negatives=1"], ["negatives=8"])
    )
    assert "negatives" not in usual.hyper and one == usual
    assert many.hyper["negatives"] == 8 and many.changed_hyper == {"negatives": 8}
    assert full_hyper(usual).model_dump()["negatives"] == 1
    assert usual.identity(DIGESTS) == one.identity(DIGESTS) != many.identity(DIGESTS)
