"""Figures from records and stored models."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy import stats

from dslbench import artefact, registry
from dslbench import data as datasets
from dslbench.backbones.base import Backbone
from dslbench.errors import UsageError
from dslbench.report import beside, command, figures, sizes, sparsity
from dslbench.report.build import FIGURES
from dslbench.report.formats import render
from dslbench.report.formats.draw import _panel, draw, label_points
from dslbench.report.formats.text_plot import NAMES
from dslbench.runs import store
from dslbench.runs.assemble import make_lab
from dslbench.spec import resolve
from dslbench.tables import PackedTable
from record_helpers import record


def at(method: str, recall: float, s: float, seed: int = 0, **spec: Any) -> dict[str, Any]:
    run = record(method, recall, seed=seed, **spec)
    run["spec"]["sparsity"] = run["budget"]["achieved_sparsity"] = s
    run["id"] = f"{method}-{s}-{seed}-{sorted(spec.get('options', {}).items())}"
    return run


DENSE = at("dense", 0.10, 0.0)
SWEEP = [DENSE, *(at("dsl", 0.10 - s / 20, s) for s in (0.1, 0.5, 0.9)), at("rp", 0.05, 0.5)]


def test_figure_2() -> None:
    (figure,) = figures.figure2([*SWEEP, at("dsl", 0.08, 0.5, seed=1)])
    recall, _ = figure.panels
    by_name = {s.name: s for s in recall.series}
    assert by_name["Baseline"].style == "level" and by_name["Baseline"].y == [0.10]
    assert by_name["DSL"].x == [0.1, 0.5, 0.9]
    assert by_name["DSL"].y == pytest.approx([0.095, 0.0775, 0.055])
    assert by_name["DSL"].error == [None, pytest.approx(0.005 / np.sqrt(2)), None]
    (shown,) = json.loads(render.figures("json", [figure], width=80))
    assert [s["sd"] for s in shown["panels"][0]["series"][:2]] == [[None], by_name["DSL"].error]
    of_dsl = [
        line.rpartition(",")[2]
        for line in render.figures("csv", [figure], width=80).splitlines()
        if ",Recall@20,DSL," in line
    ]
    assert of_dsl == ["", repr(by_name["DSL"].error[1]), ""]
    assert draw(figure, "svg")
    assert any("At no sparsity here" in line for line in figure.footer)
    close = [DENSE, at("dsl", 0.0995, 0.3), at("dsl", 0.05, 0.9)]
    assert any("30%" in line for line in figures.figure2(close)[0].footer)
    with pytest.raises(UsageError, match="two or more sparsities"):
        figures.figure2([DENSE, at("dsl", 0.1, 0.5)])


def test_figure_3_varies_one_option_at_a_time() -> None:
    def dsl(delta_t: int | None, rho0: float, recall: float) -> dict[str, Any]:
        run = at("dsl", recall, 0.5, options={"delta_t": delta_t, "rho0": rho0})
        return run | {"diagnostics": {"delta_t": delta_t or 50}}

    runs = [dsl(None, 0.5, 0.1), dsl(20, 0.5, 0.2), dsl(None, 0.9, 0.3), at("rp", 0.05, 0.5)]
    (figure,) = figures.figure3(runs)
    interval, _, ratio, _ = figure.panels
    by_name = {s.name: s for s in interval.series}
    assert interval.x_log and by_name["DSL 50%"].x == [20.0, 50.0]
    assert by_name["DSL 50%"].y == [0.2, 0.1]
    assert by_name["RP 50%"].style == "level"
    assert ratio.series[0].x == [0.5, 0.9] and ratio.series[0].y == [0.1, 0.3]
    with pytest.raises(UsageError, match="delta_t or rho0"):
        figures.figure3(runs[:1])


def test_figure_5_reads_the_histories() -> None:
    for run, start in ((DENSE, 1.0), (SWEEP[2], 2.0)):
        history = [
            {"phase": "pretrain", "epoch": 1, "loss": 9.0},
            *({"phase": "train", "epoch": e, "loss": start / e} for e in (1, 2)),
        ]
        store.save(run, history, {})
    (figure,) = figures.figure5([DENSE, SWEEP[2]])
    assert [(s.name, s.x, s.y) for s in figure.panels[0].series] == [
        ("Baseline", [1.0, 2.0], [1.0, 0.5]), ("DSL 50%", [1.0, 2.0], [2.0, 1.0]),
    ]  # fmt: skip
    (store.folder(DENSE["id"]) / "history.json").write_text("[")
    with pytest.raises(UsageError, match="histories"):
        figures.figure5([DENSE, SWEEP[2]])


def test_pareto_joins_what_is_not_beaten() -> None:
    runs = [at("dense", 0.10, 0.0), at("dsl", 0.09, 0.5), at("rp", 0.05, 0.5)]
    for run, seconds in zip(runs, (30.0, 20.0, 25.0), strict=True):
        run["cost"]["measured"]["train_seconds"] = seconds
    (figure,) = figures.pareto(runs)
    line, *points = figure.panels[0].series
    assert (line.x, line.y) == ([20.0, 30.0], [0.09, 0.10])
    assert [p.name for p in points] == ["Baseline", "DSL", "RP"]


@pytest.fixture
def trained() -> dict[str, Any]:
    """A stored model whose rows are live in proportion to the popularity of their item or user."""
    spec = resolve(
        dataset="toy", backbone="lightgcn", method="dsl", sparsity=0.5, seed=0, epochs=1,
        settings=["embedding_size=8"],
    )  # fmt: skip
    data = datasets.load("toy")
    import torch

    lab = make_lab(spec, data, torch.device("cpu"))
    model: Backbone = lab.build(PackedTable, pretrained=False)
    counts = np.concatenate([np.asarray(data.train.sum(axis=a)).ravel() for a in (1, 0)])
    ranks = stats.rankdata(counts, method="dense")
    live = np.clip(np.ceil(8 * ranks / ranks.max()).astype(int), 1, 8)
    (table,) = model.tables().values()
    assert isinstance(table, PackedTable)
    table.set_mask(torch.from_numpy(np.arange(8) < live[:, None]))
    packed = artefact.pack(model, spec.model_dump(mode="json"), data.digests)
    run = record("dsl", 0.1) | {"id": "trained"}
    store.save(run, [], {}, artefact.to_bytes(packed))
    return run


def test_figure_4_correlates_density_with_popularity(trained: dict[str, Any]) -> None:
    found = sparsity.entity_rows(beside.model(trained))
    data = datasets.load("toy")
    for entity, counts in (("user", data.train.sum(axis=1)), ("item", data.train.sum(axis=0))):
        rows = found[entity]
        assert rows.popularity.tolist() == np.asarray(counts).ravel().tolist()
        expected = stats.spearmanr(rows.density, rows.popularity).statistic
        assert rows.rank_correlation == pytest.approx(expected)
        shares = rows.sparsity_by_group()
        assert len(shares) == 10 and shares == sorted(shares, reverse=True)
        heat = rows.rows_by_level(2)
        assert heat.shape == (6, 8) and np.isnan(heat[0, -1]) and np.isfinite(heat[-1, 0])
    assert found["item"].rank_correlation == pytest.approx(1, abs=0.1)
    (figure,) = sparsity.figure4([trained])
    assert [p.heat is not None for p in figure.panels] == [False, True, True]
    assert any("rank correlation (Spearman)" in line for line in figure.footer)


def test_figure_4_without_its_model(trained: dict[str, Any]) -> None:
    (store.folder("trained") / "model.safetensors").unlink()
    with pytest.raises(Exception, match="cannot be read"):
        sparsity.figure4([trained])
    with pytest.raises(UsageError, match="needs runs of dsl"):
        sparsity.figure4([DENSE])


@pytest.mark.parametrize("suffix", command.PICTURES)
def test_pictures_are_files_of_their_kind(suffix: str, trained: dict[str, Any]) -> None:
    for figure in [*figures.figure2(SWEEP), *sparsity.figure4([trained])]:
        content = draw(figure, suffix)
        start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
        assert content.startswith(start)
        assert content == draw(figure, suffix)


def test_every_figure_says_which_plan_makes_its_runs() -> None:
    for name, builder in FIGURES.items():
        with pytest.raises(UsageError) as caught:
            builder([DENSE | {"stored": None}])
        assert "dslbench compare" in (caught.value.hint or ""), name
    assert registry.names("method")[0] == "dense"


def bytes_runs(methods: list[str], seed: int) -> list[dict[str, Any]]:
    """Each at four precisions, smaller at some cost."""
    rng = np.random.default_rng(seed)
    found = []
    for method in methods:
        run, size = at(method, 0.1, 0.5), 2**24 * rng.uniform(0.2, 1)
        best = 0.12 * rng.uniform(0.95, 1)
        run["stored"] = [
            {"precision": p, "bytes": int(size * share),
             "quality": run["quality"] | {"recall@20": best * (1 - loss * rng.random())}}
            for p, share, loss in (("fp32", 1, 0), ("fp16", 0.5, 0.001), ("int8", 0.26, 0.01),
                                   ("int4", 0.14, 0.1))
        ]  # fmt: skip
        found.append(run)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_front_of_many_sizes_has_names_that_do_not_overlap(seed: int) -> None:
    (figure,) = sizes.figure(bytes_runs(registry.names("method")[:15], seed))
    (panel,) = figure.panels
    beaten, *dense, best = panel.series
    assert panel.x_log and sum(len(line.x) for line in panel.series) == 60
    assert not any(line.labels for line in (beaten, *dense))
    assert [line.name for line in dense] == ["Baseline 50%"]  # where the others are to be seen from
    assert best.x == sorted(best.x) and best.y == sorted(best.y)
    assert len(best.labels) == len(best.x) and all(", " in name for name in best.labels)

    page = Figure(figsize=(7, 4.8), layout="constrained")
    FigureCanvasAgg(page)
    axes = page.add_subplot()
    _panel(axes, panel, [s.name for s in panel.series])
    texts = label_points(axes, panel)
    assert [text.get_text() for text in texts] == best.labels  # all have found a place
    boxes = [Text.get_window_extent(text) for text in texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert draw(figure, "svg") == draw(figure, "svg")

    shown = render.figures("terminal", [figure], width=100)
    assert all(f"{mark} {name}" in shown for mark, name in zip(NAMES, best.labels, strict=False))
    (plain,) = json.loads(render.figures("json", [figure], width=80))
    assert plain["panels"][0]["series"][-1]["labels"] == best.labels
    assert f"not beaten: {best.labels[0]}" in render.figures("csv", [figure], width=80)


def test_few_methods_are_told_apart_in_the_legend() -> None:
    (figure,) = sizes.figure(bytes_runs(["dense", "rp", "dsl"], 0))
    *others, best = figure.panels[0].series
    assert best.name == "not beaten" and 1 <= len(others) <= 3
    assert "beaten by these" not in {s.name for s in others}
