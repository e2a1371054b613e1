"""Every format of tables and figures: expected text, well-formed files, nothing fetched."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dslbench import output
from dslbench.cli import reproduction
from dslbench.errors import UsageError
from dslbench.report import command
from dslbench.report.build import TABLES, build
from dslbench.report.figures import FigureModel, Panel, Series
from dslbench.report.formats import render
from dslbench.report.formats.escapes import csv_cell
from dslbench.report.formats.html import page
from dslbench.report.formats.latex import escape, latex
from dslbench.report.formats.terminal import terminal
from dslbench.report.formats.text_plot import plot, shade, text_figure
from dslbench.report.tables import Cell, TableModel
from record_helpers import RUNS, record

SMALL = TableModel(
    title="Costs & <quality> of 50% | all_methods",
    headers=["Method", "Recall@20", "Peak memory"],
    rows=[
        [
            Cell("Baseline"),
            Cell("0.1005", ".0007", "best", 0.1005, 0.0007, 2),
            Cell("1.5 MiB", "", "", 1572864.0),
        ],
        [Cell("DSL (rho_0=0.1)"), Cell("0.0920", ".0028", "second", 0.092, 0.0028, 2), Cell("-")],
        [Cell("<RP>"), Cell("n/a"), Cell("2.0 MiB", "", "second", 2097152.0)],
    ],
    footer=["Seeds: 0, 1.", "Time & memory: 100% measured."],
    rules=[0],
)  # fmt: skip

FIGURE = FigureModel(
    "Figure & <one>",
    [
        Panel(
            "", "sparsity", "Recall@20",
            [
                Series("Baseline", [0.0], [0.3], style="level"),
                Series("DSL", [0.1, 0.5, 0.9], [0.3, 0.2, 0.1], [0.01, 0.01, 0.0]),
                Series("RP", [0.5], [0.15], style="points"),
            ],
        ),
        Panel("rows", "entry", "row", heat=np.array([[np.nan, 0.0], [0.5, 1.0]])),
    ],
    ["Seeds: 0."],
)  # fmt: skip


TERMINAL = """\
Costs & <quality> of 50% | all_methods

                                        Peak
 Method                 Recall@20     memory
 ───────────────────────────────────────────
 Baseline          0.1005 ±.0007*    1.5 MiB

 DSL (rho_0=0.1)   0.0920 ±.0028'          -
 <RP>                         n/a   2.0 MiB'

*: best, ': second best of the column.
Seeds: 0, 1.
Time & memory: 100% measured.
"""

MARKDOWN = """\
**Costs &amp; &lt;quality> of 50% | all_methods**

| Method          |                       Recall@20 |    Peak memory |
|:----------------|--------------------------------:|---------------:|
| Baseline        |    **0.1005<sub>(.0007)</sub>** |        1.5 MiB |
| DSL (rho_0=0.1) | <u>0.0920<sub>(.0028)</sub></u> |              - |
| &lt;RP>         |                             n/a | <u>2.0 MiB</u> |

- Seeds: 0, 1.
- Time &amp; memory: 100% measured.
"""


def test_terminal() -> None:
    """Without colour (a pipe) the marks are characters."""
    assert terminal([SMALL], 70, color=False) == TERMINAL
    coloured = terminal([SMALL], 70, color=True)
    assert "\x1b[1m0.1005" in coloured and "\x1b[4m0.0920" in coloured and "*: best" not in coloured


def test_markdown() -> None:
    assert render.markdown([SMALL]) == MARKDOWN


LATEX = r"""% needs \usepackage[T1]{fontenc}, \usepackage{booktabs} and \usepackage{amssymb}
\begin{table*}
\centering
\caption{Costs \& \textless{}quality\textgreater{} of 50\% \textbar{} all\_methods}
\small
\begin{tabular}{lrr}
\toprule
Method & Recall@20 & Peak memory \\
\midrule
Baseline & \textbf{0.1005$_{(.0007)}$} & 1.5 MiB \\
\midrule
DSL (rho\_0=0.1) & \underline{0.0920$_{(.0028)}$} & - \\
\textless{}RP\textgreater{} & n/a & \underline{2.0 MiB} \\
\bottomrule
\end{tabular}

\par\smallskip
{\footnotesize Seeds: 0, 1. Time \& memory: 100\% measured.\par}
\end{table*}
"""


def test_latex() -> None:
    assert latex([SMALL]) == LATEX
    assert escape("a\\b_{c}^~#$") == (
        r"a\textbackslash{}b\_\{c\}\textasciicircum{}\textasciitilde{}\#\$"
    )


@pytest.mark.parametrize("name", TABLES)
def test_latex_is_well_formed(name: str, tmp_path: Path) -> None:
    try:
        text = latex(build(name, RUNS))
    except UsageError:
        pytest.skip("these runs don't make that table")
    opened = re.findall(r"\\begin\{(\w+\*?)\}", text)
    assert sorted(opened) == sorted(re.findall(r"\\end\{(\w+\*?)\}", text))
    bare = re.sub(r"\\[{}\\%&_#$]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    for body in re.findall(r"\\toprule(.*?)\\bottomrule", text, re.S):
        widths = {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if "&" in line}
        assert len(widths) == 1
    if shutil.which("pdflatex"):
        document = (
            "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}"
            "\\usepackage{amssymb}\\begin{document}" + text + "\\end{document}"
        )
        (tmp_path / "t.tex").write_text(document, encoding="utf-8")
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "t.tex"], cwd=tmp_path, check=False,
            capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_csv_round_trips_through_pandas() -> None:
    frame = pd.read_csv(io.StringIO(render.csv([SMALL])))
    assert list(frame.columns) == ["Table", "Method", "Recall@20", "Recall@20 sd", "Peak memory"]
    assert frame["Method"].tolist() == ["Baseline", "DSL (rho_0=0.1)", "<RP>"]
    assert frame["Recall@20"].tolist()[:2] == [0.1005, 0.092] and np.isnan(frame["Recall@20"][2])
    assert frame["Peak memory"].isna().tolist() == [False, True, False]
    runs = pd.read_csv(io.StringIO(render.csv(build("3", RUNS))))
    assert runs.loc[runs["Method"] == "Baseline", "Recall@20"].item() == (0.10 + 0.101) / 2
    # Tables with other columns share a file.
    both = pd.read_csv(io.StringIO(render.csv([*build("3", RUNS), *build("cost", RUNS)])))
    assert {"Recall@20", "Measured vs dense"} <= set(both.columns)


@pytest.mark.parametrize("name", ["1", "2", "3", "cost", "pareto", "stats", "audit"])
def test_every_csv_line_stands_by_itself(name: str) -> None:
    models = build(name, RUNS)
    frame = pd.read_csv(io.StringIO(render.csv(models)), keep_default_na=False)
    assert len(frame) == sum(len(model.rows) for model in models)
    of_models = iter(frame.to_dict("records"))
    objects = json.loads(render.table_json(models))
    for model, as_json in zip(models, objects, strict=True):
        previous = [""] * model.left_columns
        for row, shown in zip(model.rows, as_json["rows"], strict=True):
            line = next(of_models)
            for place in range(model.left_columns):
                # What the terminal leaves empty is what the row above has.
                previous[place] = row[place].text or previous[place]
                expected = "" if previous[place] == "-" else previous[place]  # missing
                assert line[model.headers[place]] == csv_cell(expected)
                assert shown[model.headers[place]]["text"] == previous[place]


def test_json_of_tables() -> None:
    (table,) = json.loads(render.table_json([SMALL]))
    assert table["rows"][1]["Recall@20"] == {
        "text": "0.0920", "value": 0.092, "sd": 0.0028, "runs": 2, "mark": "second",
    }  # fmt: skip
    assert table["rows"][1]["Peak memory"]["value"] is None


class Page(HTMLParser):
    """Checks that tags are closed in order and collects attributes."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_html_is_one_file_and_escapes_everything() -> None:
    text = page("Report <&>", [SMALL], [FIGURE], ["Table 9: <nothing>"])
    found = Page(text)
    assert all(link.startswith("data:image/svg+xml;base64,") for link in found.links)
    assert len(found.links) == 1
    assert "script" not in found.tags and "link" not in found.tags
    assert "@import" not in text and "url(" not in text
    assert "<RP>" in found.words and "<nothing>" in found.words and "<quality>" in found.words
    assert 'name="viewport"' in text


def test_whole_report_says_what_is_not_shown() -> None:
    found = Page(reproduction.whole("All", RUNS))
    for text in ("Table 2:", "Table 3:", "Cost:", "Pareto:", "Statistics:", "Not shown"):
        assert text in found.words
    assert "compare --plan table4" in found.words


def test_figures_as_text() -> None:
    text = text_figure(FIGURE, 60)
    assert max(map(len, text.splitlines())) <= 60
    assert "● " not in text.split("─ ─ Baseline")[0]  # a level has no marker
    assert "▲ DSL" in text and "■ RP" in text
    assert shade(np.array([[np.nan, 0.0, 1.0]]), 60) == ["│ ░█│"]
    lines = plot(FIGURE.panels[0], 40, height=5).splitlines()
    assert lines[1].startswith("0.3 │▲") and lines[5].startswith("0.1 │")
    assert lines[5].rstrip().endswith("▲")
    flat = Panel("", "x", "y", [Series("one", [1.0], [2.0])])
    assert "●" in plot(flat, 40)


def test_figures_as_data() -> None:
    frame = pd.read_csv(io.StringIO(render.figures("csv", [FIGURE], width=80)))
    assert frame.loc[frame["series"] == "DSL", "y"].tolist() == [0.3, 0.2, 0.1]
    (figure,) = json.loads(render.figures("json", [FIGURE], width=80))
    assert figure["panels"][0]["series"][1]["sd"] == [0.01, 0.01, 0.0]
    with pytest.raises(UsageError, match="unknown format 'latex'"):
        render.figures("latex", [FIGURE], width=80)


@pytest.mark.parametrize(
    ("name", "output", "figure", "expected"),
    [
        (None, None, False, "terminal"), (None, "t.md", False, "markdown"),
        (None, "t.TEX", False, "latex"), ("csv", "t.md", False, "csv"),
        (None, "f.png", True, "png"), (None, "t", False, "terminal"),
        ("csv", "t.foo", False, "csv"),
    ],
)  # fmt: skip
def test_the_suffix_chooses_the_format(
    name: str | None, output: str | None, figure: bool, expected: str
) -> None:
    assert command.chosen_format(name, Path(output) if output else None, figure) == expected


@pytest.mark.parametrize(
    ("name", "output", "figure", "message"),
    [
        ("png", None, True, "needs a file"), (None, "t.png", False, "a table has no format 'png'"),
        ("pdf", None, False, "a table has no format"), ("latx", None, False, "unknown format"),
        ("markdown", None, True, "a figure has no format 'markdown'"),
        (None, "f.tex", True, "a figure has no format 'latex'"),
        (None, "t.foo", False, "suffix of t.foo means no format"),
        (None, "f.jpeg", True, "suffix of f.jpeg means no format"),
    ],
)  # fmt: skip
def test_formats_that_make_no_sense(
    name: str | None, output: str | None, figure: bool, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        command.chosen_format(name, Path(output) if output else None, figure)


def test_numbered_files() -> None:
    assert [str(p) for p in command.numbered(Path("a/f.png"), 3)] == [
        "a/f.png", "a/f-2.png", "a/f-3.png",
    ]  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("format_name", render.FORMATS)
def test_every_table_in_every_format(name: str, format_name: str) -> None:
    runs = [
        *RUNS,
        record("dsl", 0.08, options={"decay": "linear"}, changed_options={"decay": "linear"})
        | {"id": "linear"},
        record("dsl", 0.07, options={"decay": "none"}, changed_options={"decay": "none"})
        | {"id": "none"},
    ]
    text = render.tables(format_name, build(name, runs), width=60, color=False)
    assert ("toy" if TABLES[name].needs_runs else "Audit") in text and text.endswith("\n")


NASTY = TableModel(
    title="<img src=x> [a](http://x) | b",
    headers=["Model", "a|b.csv Recall@20", "<img src=x> MACs", "=1+1"],
    rows=[
        [Cell("=cmd()|x"), Cell("-0.5", value=-0.5), Cell("-50.0%"), Cell("@SUM(A1)")],
        [Cell("`a` *b* [c](http://x)"), Cell("-"), Cell("+1"), Cell("-2+3")],
    ],
    footer=["[link](http://x) <b> $x$ | y", "# no heading", "1. no list", "- no item"],
)


def test_markdown_shows_names_as_they_are() -> None:
    title, _, head, rule, *rows, _, one, two, three, four = render.markdown([NASTY]).splitlines()
    assert title == r"**&lt;img src=x> \[a\](http://x) | b**"
    for line in (head, rule, *rows):  # a bar within a name makes no column
        assert len(re.findall(r"(?<!\\)\|", line)) == len(NASTY.headers) + 1
    assert r"a\|b.csv Recall@20" in head and "&lt;img src=x> MACs" in head
    assert r"\`a\` \*b\* \[c\](http://x)" in rows[1]
    assert one == r"- \[link\](http://x) &lt;b> \$x\$ | y"
    assert [two, three, four] == [r"- \# no heading", r"- 1\. no list", r"- \- no item"]


def test_csv_has_no_formulas_and_keeps_its_numbers() -> None:
    model = TableModel("=title()", NASTY.headers, NASTY.rows)
    for text in (render.csv([model]), render.figures("csv", [FORMULAS], width=80)):
        for row in csv.reader(io.StringIO(text)):
            for cell in row:
                assert not re.match(r"[=+@\t\r-](?![\d.,]*%?$)", cell), cell
    line = pd.read_csv(io.StringIO(render.csv([model]))).to_dict("records")[0]
    assert line["a|b.csv Recall@20"] == -0.5 and line["<img src=x> MACs"] == "-50.0%"
    assert line["Model"] == "'=cmd()|x" and line["'=1+1"] == "'@SUM(A1)"


FORMULAS = FigureModel(
    "=f()", [Panel("", "@x", "+y()", [Series("-s()", [-1.0], [-2.0])])], ["Seeds: 0."]
)


@pytest.mark.parametrize("name", TABLES)
def test_tables_fit_a_narrow_terminal(name: str) -> None:
    long = "/a/folder/with_a_name_of_no_end/and_a_file_of_interactions.csv"
    runs = [*RUNS, *(record("dsl", 0.1, dataset=long, seed=s) | {"id": f"l{s}"} for s in (0, 1))]
    try:
        models = build(name, runs)
    except UsageError:
        pytest.skip("these runs don't make that table")
    for width in (40, 60, 80):
        for color in (False, True):
            text = re.sub(r"\x1b\[[0-9;]*m", "", terminal(models, width, color=color))
            assert max(map(len, text.splitlines())) <= width
        words = {word for model in models for line in model.footer for word in line.split()}
        assert {word for word in words if len(word) < width} <= set(text.split())


def test_what_matters_most_comes_first_where_not_all_fits() -> None:
    text = terminal(build("3", RUNS), 60, color=False)
    assert text.index("Recall@20") < text.index("Exact") and text.index("HR@20") < text.index(
        "time"
    )
    wide = terminal(build("3", RUNS), 160, color=False)
    assert wide.index("Bytes") < wide.index("Recall@20")


def test_the_width_of_a_pipe_is_that_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert command.looks(to_file=False) == (60, False)
    assert command.looks(to_file=True) == (render.PIPE_WIDTH, False)
    monkeypatch.setenv("COLUMNS", "")
    assert command.looks(to_file=False) == (render.PIPE_WIDTH, False)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii", "utf-8"])
def test_marks_in_encodings_that_lack_them(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = terminal(build("1", RUNS), 100, color=False) + text_figure(FIGURE, 60)
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    output.deliver(text)
    shown = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert "?" not in shown
    assert [len(line) for line in shown.splitlines()] == [len(line) for line in text.splitlines()]
    if encoding == "utf-8":
        assert shown == text
    else:
        assert "y: counted" in shown and " n: no" in shown
