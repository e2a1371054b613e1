"""The documentation against the code: commands run, tables of settings agree, links lead somewhere.

`python tests/test_docs.py` writes the generated tables into the documents anew.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from dslbench import registry, settings, spec
from dslbench.cli import main as cli
from dslbench.evaluation.metrics import METRICS
from dslbench.runs import store
from dslbench.runs.assemble import make_lab
from dslbench.runs.record import describe
from dslbench.tables import DenseTable, Table, TableSpec
from helpers import make_interactions
from plugin_helpers import FENCE, ROOT, dslbench_each, example, install

PAGES = sorted([ROOT / "README.md", ROOT / "data" / "README.md", *(ROOT / "docs").glob("*.md")])
METHODS, BACKBONES = registry.names("method"), registry.names("backbone")
REFERENCES = registry.names("reference")
GENERATED = re.compile(r"(<!-- generated: (\w+) ?(\w*) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
SMALL = ["--epochs", "1", "--set", "embedding_size=8"]


# ------------------------------------------------------------------------------ generated tables


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def overview(_: str) -> str:
    """What kind of method each is, and the trainings it takes at 50 %."""
    rows = []
    for name in METHODS:
        method = registry.method(name)
        phases = method.phases(method.options_type(), 0.5)
        shown = f"{phases[0]} to {phases[-1]}" if len(phases) > 2 else ", ".join(phases)
        variants = ", ".join(f"`{v}`" for v in method.variants if v != "default")
        label = f"[{method.label}](#{name})"
        rows.append([f"`{name}`", label, method.family or "-", shown, variants or "-"])
    return table(["name", "label", "family", "phases at 50 %", "variants"], rows)


def references(_: str) -> str:
    """What is searched of each reference, and from where."""
    rows = []
    for name in REFERENCES:
        kind = registry.reference(name)
        grids = [f"{key} {', '.join(f'{c:g}' for c in found)}" for key, found in kind.grid.items()]
        usual = ", ".join(f"{key} {value:g}" for key, value in kind.usual.items())
        rows.append(
            [f"`{name}`", f"[{kind.label}](#{name})", "; ".join(grids) or "-", usual or "-"]
        )
    return table(["name", "label", "grid", "usual point"], rows)


def options(method: str) -> str:
    """Keys of `--set` that belong to a method or a reference."""
    rows = [
        [f"`{s.key}`", settings.shown(s.default), s.allowed.replace(" | ", ", "),
         s.description.replace("|", "\\|")]
        for s in settings.of(method)
    ]  # fmt: skip
    return table(["key", "default", "allowed", "meaning"], rows)


def presets(backbone: str) -> str:
    """Values of each preset, their sources, and what single data sets change."""
    found = {k: v for k, v in registry.backbone(backbone).presets().items() if isinstance(v, dict)}
    default = registry.backbone(backbone).presets()["default"]
    hyper = registry.backbone(backbone).hyper_type
    resolved = {
        name: hyper.model_validate({k: v for k, v in preset.items() if k in hyper.model_fields})
        for name, preset in found.items()
    }
    rows = [
        [f"`{key}`", *(settings.shown(p.model_dump(mode="json")[key]) for p in resolved.values())]
        for key in hyper.model_fields
    ]
    heads = [f"`{name}`" + (" (default)" if name == default else "") for name in found]
    text = table(["key", *heads], rows) + "\n"
    for name, preset in found.items():
        text += f"* `{name}`: {preset['source']}.\n"
        for dataset, own in preset.get("dataset", {}).items():
            values = ", ".join(f"{k} {settings.shown(v)}" for k, v in own.items() if k != "source")
            text += f"  * on `{dataset}`: {values}\n"
        for tier in preset.get("by_size", []):
            values = ", ".join(f"{k} {settings.shown(v)}" for k, v in tier.items() if k != "up_to")
            upper = f"up to {tier['up_to']:,}" if "up_to" in tier else "more"
            text += f"  * on other data sets, {upper} interactions: {values}\n"
    return text


def scopes(_: str) -> str:
    """Tables by mask scope."""
    rows = []
    for name in BACKBONES:
        specs = tables_of(name)
        inside = [t for t in specs if t.in_scope("embeddings")]
        released = [t for t in specs if t.in_scope("official")]
        others = [t for t in specs if t.role == "layer"]
        sizes = {"user": "N", "item": "M"}
        rows.append(
            [
                f"`{name}`",
                ", ".join(f"{t.name} ({' + '.join(sizes[e] for e, _ in t.segments)})"
                          for t in inside),
                "the same" if released == inside else ", ".join(t.name for t in released),
                ", ".join(t.name for t in others) or "-",
            ]
        )  # fmt: skip
    return table(["backbone", "`embeddings` (rows)", "`official`", "`all`: also"], rows)


def tables_of(backbone: str) -> list[TableSpec]:
    """The tables that a backbone asks for."""
    asked: list[TableSpec] = []

    def make_table(wanted: TableSpec, rng: np.random.Generator) -> Table:
        asked.append(wanted)
        return DenseTable(wanted, rng)

    extra = ["user_projection=true"] if backbone == "cdae" else []
    run = spec.resolve(
        dataset="yelp2018", backbone=backbone, method="dense", sparsity=0, seed=0, settings=extra
    )
    make_lab(run, make_interactions(), torch.device("cpu")).build(make_table, pretrained=False)
    return asked


def record_fields(_: str) -> str:
    """Every field of a record."""
    return table(["field", "meaning, unit"], [[f"`{path}`", text] for path, text in describe()])


def known_metrics(_: str) -> str:
    """Every metric."""
    rows = []
    for name, metric in METRICS.items():
        least, most = metric.range
        better = {"high": "more", "low": "less", None: "-"}[metric.better]
        rows.append([f"`{name}`", metric.label, metric.meaning, f"{least:g} to {most:g}", better])
    return table(["metric", "label", "meaning", "range", "better"], rows)


def ranges(_: str) -> str:
    """Where every setting is searched."""
    rows = [
        [f"`{owner}`", f"`{s.key}`", s.searched.replace(" | ", ", ")]
        for owner in (*BACKBONES, *METHODS)
        for s in settings.of(owner)
        if s.searched
    ]
    return table(["of", "key", "searched in"], rows)


GENERATORS: dict[str, Callable[[str], str]] = {
    "overview": overview, "options": options, "presets": presets, "scopes": scopes,
    "record": record_fields, "metrics": known_metrics, "references": references, "ranges": ranges,
}  # fmt: skip


def fill(text: str) -> str:
    """A page with its generated parts made anew."""
    return GENERATED.sub(lambda m: m[1] + GENERATORS[m[2]](m[3]) + m[5], text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_generated_tables_agree_with_the_classes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert fill(text) == text, "python tests/test_docs.py writes the tables anew"


def test_every_method_and_backbone_has_a_section_and_its_table() -> None:
    pages = [("methods", METHODS, "options"), ("backbones", BACKBONES, "presets"),
             ("references", REFERENCES, "options")]  # fmt: skip
    for page, names, kind in pages:
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        assert re.findall(r"^## (\w+)$", text, re.MULTILINE).count("dense") <= 1
        for name in names:
            assert f"\n## {name}\n" in text
            plain = kind == "options" and not registry.row(name).options_type.model_fields
            assert plain or f"<!-- generated: {kind} {name} -->" in text


def test_settings_named_in_the_text_exist() -> None:
    names = (*METHODS, *BACKBONES, *REFERENCES)
    known = {s.key for name in names for s in settings.of(name)} | {"variant"}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = set(re.findall(r"--set ([\w.]+)=", text)) - {"KEY"}
        assert {k for k in found if not k.startswith("early.")} <= known, page.name
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for section in text.split("\n## ")[1:]:
        method = section.partition("\n")[0]
        for key, value in re.findall(r"`(\w+)=(\w+)`", section):
            spec.resolve(
                dataset="toy", backbone="lightgcn", method=method, sparsity=0.5, seed=0,
                settings=[f"{method}.{key}={value}"],
            )  # fmt: skip


# ---------------------------------------------------------------------------------------- links


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_internal_links_resolve(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, target


# ------------------------------------------------------------------------------------- commands


def blocks(mark: str) -> Iterator[tuple[Path, str, str]]:
    """Page, language and content of the fenced blocks with a mark, README first."""
    for page in sorted(PAGES, key=lambda page: page != ROOT / "README.md"):
        for language, found, content in FENCE.findall(page.read_text(encoding="utf-8")):
            if found == mark:
                yield page, language, content


def commands(text: str) -> Iterator[list[str]]:
    """Arguments of the `dslbench` commands in a block."""
    for line in text.splitlines():
        if "dslbench" not in line:
            continue
        words = shlex.split(line, comments=True)
        if words[:1] == ["dslbench"]:
            yield words[1:]


def dslbench(args: list[str]) -> int:
    """Exit code of a command."""
    before, sys.argv = sys.argv, ["dslbench", *args]
    try:
        cli.main()
    except SystemExit as error:
        return int(error.code or 0)
    finally:
        sys.argv = before
    return 0


def test_every_command_in_the_documentation_parses() -> None:
    app: Any = typer.main.get_command(cli.app)
    count = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fenced = "\n".join(content for _, _, content in FENCE.findall(text))
        text = text.replace("\\\n", " ")  # a command over several lines
        indented = "\n".join(re.findall(r"^    (dslbench .*)$", FENCE.sub("", text), re.MULTILINE))
        for name, *args in commands(fenced + "\n" + indented):
            plain = [word.strip("[]").partition("|")[0] for word in args]  # [--option a|b]
            app.commands[name].make_context(name, plain)
            count += 1
    assert count > 30


def test_marked_commands_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    runs_in_this_process: None,
) -> None:
    """Trainings for one epoch at a small size; Python blocks go on with what commands left."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pairs = rng.integers((40, 60), size=(800, 2))
    rows = "".join(f"customer {u},article {i}\n" for u, i in pairs)
    Path("orders.csv").write_text("user,item\n" + rows)
    (plan,) = (c for _, language, c in blocks("") if language == "toml" and "[[grid]]" in c)
    Path("plan.toml").write_text(plan)
    for _, _, content in blocks("test"):
        for args in commands(content):
            small = [*args, *(SMALL if args[0] in ("train", "compare", "shrink") else [])]
            assert dslbench(small) == 0, (args, capsys.readouterr().err)
    for _, _, content in blocks("dry-run"):
        for args in commands(content):
            assert dslbench([*args, "--dry-run"]) == 0, (args, capsys.readouterr().err)
    (python,) = (content for _, language, content in blocks("test") if language == "python")
    capsys.readouterr()
    exec(compile(python, "file-format.md", "exec"), {})
    lists = json.loads(capsys.readouterr().out)
    assert [len(items) for items in lists] == [10, 10, 10]
    check_record_fields(store.read_all(print))


def check_record_fields(records: list[dict[str, Any]]) -> None:
    """Every field of a record is explained."""
    fields = {path.replace("[]", "").split(".")[-1] for path, _ in describe()}
    inside = {"hyper", "options", "changed_hyper", "changed_options", "diagnostics", "quality"}
    inside |= {"versions", "top_k_latency", "stored_bytes"}

    def names(node: Any) -> Iterator[str]:
        for key, value in node.items() if isinstance(node, dict) else ():
            yield key
            if key not in inside:
                for part in value if isinstance(value, list) else [value]:
                    yield from names(part)

    found = {name for record in records for name in names(record)}
    sections = {"data", "spec", "budget", "cost", "counted", "paper", "exact", "phases", "measured"}
    assert len(found) > 40 and found - fields - sections <= {
        "selection", "environment", "tables", "step_seconds", "diagnostics", "stored",
    }  # fmt: skip
    assert all(set(record["quality"]) == {*METRICS, "tied_users"} for record in records)


def test_the_example_of_a_method_works_from_another_package(own_home: Path, tmp_path: Path) -> None:
    source, groups = example("extending.md", "A method")
    package = install(tmp_path / "package", "early", source, **groups)
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    shown = next(
        content
        for language, _, content in FENCE.findall(page)
        if "early" in content and language == "sh"
    )

    listed, described, compared = commands(shown)
    small = ["--dataset", "toy", "--epochs", "4", "--set", "embedding_size=16", "--format", "json"]
    done = dslbench_each(listed, described, [*compared, *small], packages=(package,))
    assert [one.returncode for one in done] == [0, 0, 0], done
    assert "early        from early" in done[0].stdout
    assert "dense_share" in done[1].stdout
    dense, early = json.loads(done[2].stdout)
    assert (dense["spec"]["method"], early["spec"]["method"]) == ("dense", "early")
    assert early["budget"]["table_params"] * 2 == dense["budget"]["table_params"]
    assert [p["epochs"] for p in early["cost"]["measured"]["phases"]] == [2, 2]
    macs = [r["cost"]["counted"]["exact"]["train_macs"] for r in (dense, early)]
    assert macs[1] < macs[0]


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")
