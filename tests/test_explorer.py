"""The page of all runs: one safe file, the same for the same runs, that a person can use in a browser."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from browser_helpers import CHROMIUM, Browser
from cli_helpers import run
from dslbench.errors import UsageError
from dslbench.report import exploring
from dslbench.report.formats import explorer
from dslbench.runs import store
from dslbench.runs.results.submission import as_record
from record_helpers import RUNS, record

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "submission.json").read_text())
NASTY = "</script><img src=x onerror=alert(1)>&<!--"


def many(count: int) -> list[dict[str, Any]]:
    """Runs of different options and data, as full as real ones, published and so without a store."""
    found = []
    points = list(range(10, 250, 10))
    curve = {"phase": "train", "epoch": points, "loss": [1.0 / (3 * e) for e in points],
             "quality": [round(0.2 - 0.31 / e, 5) for e in points]}  # fmt: skip
    for n in range(count):
        one = json.loads(json.dumps(as_record(FIXTURE)))
        one["id"] = f"{n:012x}"
        one["submission"]["curve"] = [curve]
        dense = n % 25 == 0
        one["spec"] |= {"method": "dense" if dense else "dsl", "sparsity": 0.0 if dense else 0.5}
        one["spec"] |= {"dataset": f"data{n // 250}", "epochs": 100 + n // 125 % 2}
        one["spec"]["changed_options"] = {} if dense else {"delta_t": n % 125}
        one["spec"]["options"] = {} if dense else {**one["spec"]["options"], "delta_t": n % 125}
        one["spec"]["seed"] = n % 125 // 25 if dense else 0
        for place, row in enumerate(one["stored"]):
            row["bytes"] += 977 * (n % 40) + place
            row["quality"] = {k: v * (1 - 0.003 * (n % 17)) for k, v in row["quality"].items()}
        one["quality"] = one["stored"][0]["quality"]
        found.append(one)
    return found


def hostile() -> list[dict[str, Any]]:
    """Runs whose every name is an attack."""
    named = {"changed_options": {NASTY: NASTY, "__proto__": "x"}, "variant": NASTY}
    return [
        record("dense", 0.1, dataset=NASTY, preset=NASTY),
        record("dsl", 0.09, dataset=NASTY, preset=NASTY, **named)
        | {"environment": {"cpu": NASTY, "cores": 2, "device": "{{answer}}"}},
    ]


class Page(HTMLParser):
    """Tags, ids, attributes and the data of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: dict[str, str] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = f"{tag}{dict(attrs).get('type', '')}"

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.blocks[self._inside] = self.blocks.get(self._inside, "") + data

    @property
    def data(self) -> Any:
        return json.loads(self.blocks["scriptapplication/json"])


def page(records: list[dict[str, Any]]) -> str:
    return explorer.page(exploring.content(records))


# ---------------------------------------------------------------------------- without a browser


def test_the_page_is_one_file_that_asks_for_nothing() -> None:
    text = page(RUNS)
    found = Page(text)
    assert not re.search(
        r"https?:|//\w+\.|@import|url\(|eval\(|innerHTML|insertAdjacent|document\.write", text
    )
    assert not [a for _, a in found.tags if "src" in a or "onclick" in a or "style" in a]
    assert [a["href"] for _, a in found.tags if "href" in a] == ["#rows"]
    policy = next(a["content"] or "" for _, a in found.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy


def test_names_and_labels_for_those_who_do_not_see_it() -> None:
    found = Page(page(RUNS))
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in found.tags:
        for key in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(key) in (None, *ids), (tag, key)
        if tag == "section":
            assert attributes["aria-labelledby"]
    tags = [tag for tag, _ in found.tags]
    assert tags.count("label") == tags.count("select") and tags.count("h1") == 1
    assert {"main", "header", "noscript"} <= set(tags)
    assert found.tags[0] == ("html", {"lang": "en"})


def test_the_interval_of_a_change_over_three_seeds() -> None:
    of = {"dense": (0.1, 0.11, 0.12), "rp": (0.099, 0.11, 0.119)}
    runs = [record(m, q, seed=n) for m, values in of.items() for n, q in enumerate(values)]
    data = Page(page(runs)).data
    dense, rp = (row["points"] for row in data["rows"])
    assert all("low" not in point for point in dense if point["trained"])
    change = (np.array(of["rp"]) - of["dense"]) / np.mean(of["dense"])
    expected = stats.ttest_1samp(change, 0).confidence_interval()
    trained = next(point for point in rp if point["trained"])
    assert (trained["low"], trained["high"]) == pytest.approx(tuple(expected), rel=1e-6)
    said = f"(-0.6%, over 3 seeds {expected.low:+.1%} to {expected.high:+.1%})"
    assert said in data["settings"][0]["answer"]


def test_the_answer_and_the_data_of_a_row() -> None:
    data = Page(page(RUNS)).data
    (setting,) = data["settings"]
    assert setting["answer"].startswith("The smallest stored model that loses under 1%")
    assert setting["answer"].endswith("REDUCED: 10 of 1000 epochs.")
    assert setting["training"] == "reduced" and setting["digests"]["train"] == "a" * 64
    dense, dsl, rp = data["rows"]
    assert [row["name"] for row in (dense, dsl, rp)] == ["Baseline", "DSL 50%", "RP 50%"]
    assert dense["seeds"] == [0, 1] and dense["family"] == "Dense" and rp["family"] == "Masks"
    point = dsl["points"][0]
    assert point["precision"] == "int4" and not point["trained"] and point["bytes"] == 30_600
    assert point["lost"] == pytest.approx(0.092 / 0.1005 - 1, rel=1e-6)
    assert point["quality"][0] == pytest.approx(0.092) and len(point["sd"]) == 3
    assert "energy" not in {cost["key"] for cost in data["costs"]}  # nobody measured it
    assert any("Fewer than 3 seeds" in line for line in data["notes"])


def test_caveats_stand_once() -> None:
    """What holds for all settings is said for all; the rest at its setting."""
    other = [
        r | {"id": f"o{n}"} for n, r in enumerate(record("rp", 0.1, epochs=20) for _ in range(1))
    ]
    data = Page(page([*RUNS, *other])).data
    lines = [*data["notes"], *(line for s in data["settings"] for line in s["notes"])]
    assert len(data["settings"]) == 2 and sum(line.startswith("Machine: ") for line in lines) == 1
    assert sum(line.startswith("Reduced settings") for line in lines) == 2
    assert data["settings"][data["order"][0]]["epochs"] == 10  # that with the most rows


def test_rows_say_whether_they_had_levelled_off() -> None:
    def at(rise: float | None, name: str) -> dict[str, Any]:
        return record(name, 0.1) | {"selection": {"epoch": 10, "on": "valid", "rise": rise}}

    data = Page(page([at(0.0, "dense"), at(0.2, "rp"), at(None, "dsl")])).data
    assert [row["training"] for row in data["rows"]] == ["levelled", "reduced", "rising"]


def test_full_trainings_come_first() -> None:
    full = [record(m, 0.1, epochs=1000) | {"id": f"full{m}"} for m in ("dense", "rp")]
    data = Page(page([*RUNS, *full])).data
    assert data["settings"][data["order"][0]]["training"] == "full"


def test_records_of_older_versions_are_rows_as_trained() -> None:
    old = [{k: v for k, v in r.items() if k != "stored"} for r in RUNS]
    data = Page(page(old)).data
    assert [len(row["points"]) for row in data["rows"]] == [1, 1, 1]
    assert all(row["points"][0]["trained"] for row in data["rows"])
    with pytest.raises(UsageError, match="no runs"):
        exploring.content([])


def test_the_same_runs_give_the_same_bytes() -> None:
    runs = [*RUNS, *many(30)]
    assert page(runs) == page(runs[::-1])
    assert not re.search(r"\b20\d\d-\d\d-\d\d", page(RUNS))  # no date, of runs or of now


def test_names_of_others_stay_text() -> None:
    text = page(hostile())
    found = Page(text)
    assert [tag for tag, _ in found.tags].count("img") == 0
    assert text.count("</script>") == 2 and "<!--" not in found.blocks["scriptapplication/json"]
    assert NASTY in found.data["settings"][0]["text"]
    assert "{{answer}}" in json.dumps(found.data)  # of a record, and not filled in


@pytest.fixture(scope="module")
def large() -> str:
    return page(many(500))


def test_five_hundred_runs_are_small(large: str) -> None:
    assert len(large.encode()) < 1_500_000


def test_the_script_parses() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    script = Page(page(RUNS)).blocks["script"]
    done = subprocess.run([node, "--check", "-"], input=script, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_the_command_line_writes_it(tmp_path: Path) -> None:
    for one in RUNS:
        store.save(one, [], {})
    output = tmp_path / "page.html"
    code, out, err = run("report", "--format", "html", "--output", str(output))
    assert code == 0 and out == "", err
    assert Page(output.read_text()).data["rows"]
    code, _, err = run("report", "--format", "html", "--references")
    assert code == 2 and "--references and --stats add to a table" in err


# ----------------------------------------------------------------------------------- in a browser

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Browser]:
    """Two settings and three families, in a window of a desk."""
    other = [
        record(m, 0.2, dataset="gowalla", epochs=1000) | {"id": f"g{m}"} for m in ("dense", "dsl")
    ]
    path = tmp_path / "page.html"
    path.write_text(page([*RUNS, record("pq", 0.099) | {"id": "pq"}, *map(_published, other)]))
    browser.said.clear()
    browser.asked.clear()
    browser.size(1400, 1000)
    browser.open(path)
    yield browser
    assert browser.said == [] and browser.asked == [path.resolve().as_uri()]


def _published(one: dict[str, Any]) -> dict[str, Any]:
    """With the command, curve and bill of a real run."""
    kept = FIXTURE["record"]
    return one | {"cost": kept["cost"], "submission": as_record(FIXTURE)["submission"]}


def choose(browser: Browser, name: str, value: str) -> None:
    browser.js(
        f"(() => {{ const s = document.getElementById('{name}'); s.value = '{value}';"
        " s.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )


def column(browser: Browser, title: str) -> list[str]:
    heads = browser.js("[...document.querySelectorAll('#rows thead th')].map(e => e.textContent)")
    place = next(n for n, head in enumerate(heads) if head.rstrip(" ▲▼") == title)
    rows = "[...document.querySelectorAll('#rows tbody tr:not(.inside)')]"
    return list(browser.js(f"{rows}.map(e => e.children[{place}].textContent)"))


@needs_browser
def test_filters_and_the_answer(opened: Browser) -> None:
    assert "gowalla" in opened.js("document.getElementById('about').textContent")  # trained in full
    assert column(opened, "Method") == ["▸ Baseline", "▸ Baseline", "▸ DSL 50%", "▸ DSL 50%"]
    choose(opened, "f-dataset", "toy")
    assert "toy" in opened.js("document.getElementById('about').textContent")
    assert (
        set(column(opened, "Stored as")) == {"fp32", "int4"} and len(column(opened, "Method")) == 8
    )
    choose(opened, "f-family", "Masks")
    choose(opened, "f-precision", "int4")
    assert column(opened, "Method") == ["▸ DSL 50%", "▸ RP 50%"]
    choose(opened, "f-training", "full")
    assert (
        opened.js("document.getElementById('answer').textContent") == "Nothing fits these filters."
    )
    for name in ("dataset", "family", "precision", "training"):
        choose(opened, f"f-{name}", "")
    assert len(column(opened, "Method")) == 12
    assert opened.js("document.getElementById('f-setting').options.length") == 3  # and all of them
    assert set(column(opened, "Data set")) == {"toy", "gowalla"}  # shown, as rows differ in it
    choose(opened, "f-setting", "1")
    assert len(column(opened, "Method")) == 8
    choose(opened, "f-dataset", "gowalla")  # another data set asks anew which setting
    assert len(column(opened, "Method")) == 4
    choose(opened, "f-dataset", "")
    assert len(column(opened, "Method")) == 12


@needs_browser
def test_sorting_and_columns(opened: Browser) -> None:
    choose(opened, "f-dataset", "toy")
    values = [float(text.rstrip("%")) for text in column(opened, "vs dense") if text != "-"]
    assert len(values) > 4 and values == sorted(values, reverse=True)
    sort = "document.querySelector('[aria-sort]').getAttribute('aria-sort')"
    assert opened.js(sort) == "descending"  # the best first
    assert opened.js("document.querySelector('[aria-sort]').textContent").startswith("vs dense")
    for order in ("descending", "ascending"):
        opened.click('#rows thead [data-key="recall@20"]')
        assert opened.js(sort) == order
    assert opened.js("document.activeElement.dataset.key") == "recall@20"
    opened.press("Enter")  # the head keeps the focus
    assert opened.js(sort) == "descending"
    opened.js("document.querySelector('#column-boxes [data-key=\"bytes\"]').click()")
    heads = opened.js("document.querySelector('#rows thead').textContent")
    assert "Bytes" not in heads and "NDCG" in heads


@needs_browser
def test_axes_marks_and_labels(opened: Browser) -> None:
    choose(opened, "f-dataset", "toy")
    marks = "[...document.querySelectorAll('#chart .mark')].map(e => e.getAttribute('aria-label'))"
    found = opened.js(marks)
    assert any(
        said.startswith(
            "Baseline, fp32: Recall@20 .1005, +0.0% against dense of the same seeds, 2 seeds"
        )
        for said in found
    )
    assert any("on the front" in said for said in found)
    labels = (
        "[...document.querySelectorAll('#chart .halo')].map(e => e.getBBox())"
        ".map(b => [b.x, b.y, b.x + b.width, b.y + b.height])"
    )
    boxes = opened.js(labels)
    assert boxes
    for n, a in enumerate(boxes):
        assert a[0] >= 0 and a[2] <= 1400
        for b in boxes[:n]:
            assert a[2] <= b[0] or a[0] >= b[2] or a[3] <= b[1] or a[1] >= b[3]
    choose(opened, "a-x", "train_time")
    assert all(", fp32: " in said or ", 16 codes: " in said for said in opened.js(marks))
    choose(opened, "a-y", "2")
    assert all("NDCG@20" in said for said in opened.js(marks))
    opened.js("document.querySelector('#chart .mark').focus()")
    first = opened.js("document.getElementById('tip').textContent")
    assert "NDCG@20" in first
    opened.press("ArrowRight")
    assert "NDCG@20" in opened.js("document.getElementById('tip').textContent")
    opened.press("Enter")
    assert opened.js("document.querySelectorAll('#rows .inside').length") == 1
    assert opened.js("document.activeElement.getAttribute('aria-expanded')") == "true"


@needs_browser
def test_what_is_behind_a_row(opened: Browser) -> None:
    opened.click("#rows tbody tr button")
    text = opened.js("document.querySelector('#rows .inside').textContent")
    for part in ("Command", "Training: train", "Bill by phase", "Budget", "a" * 64, "Published"):
        assert part in text
    opened.call("Browser.grantPermissions", permissions=["clipboardReadWrite"])
    opened.click("#rows .copy")
    time.sleep(0.1)
    assert opened.js("document.querySelector('.copy').textContent") == "copied"
    assert opened.js("navigator.clipboard.readText()") == FIXTURE["command"]
    opened.press("Enter")
    opened.js("document.querySelector('#rows tbody tr button').click()")
    assert opened.js("document.querySelectorAll('#rows .inside').length") == 0


@needs_browser
def test_files_that_are_saved(opened: Browser, tmp_path: Path) -> None:
    opened.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for kind in ("csv", "json"):
        opened.js(f"document.getElementById('save-{kind}').click()")
        for _ in range(200):
            if (tmp_path / f"dslbench.{kind}").exists():
                break
            time.sleep(0.05)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "dslbench.csv").read_text())))
    assert [row["Method"] for row in rows] == ["Baseline", "Baseline", "DSL 50%", "DSL 50%"]
    assert float(rows[1]["Recall@20"]) == 0.2 and rows[-1]["Command"] == FIXTURE["command"]
    found = json.loads((tmp_path / "dslbench.json").read_text())
    assert (
        found[0]["setting"]["dataset"] == "gowalla"
        and found[0]["stored"]["quality"]["recall@20"] == 0.2
    )
    opened.asked[:] = [url for url in opened.asked if not url.startswith("blob:")]


@needs_browser
def test_on_a_phone_in_the_dark(opened: Browser, tmp_path: Path) -> None:
    opened.size(390, 844, dark=True, touch=True)
    opened.open(tmp_path / "page.html")
    assert opened.js("document.documentElement.scrollWidth") == 390
    assert opened.js("document.getElementById('chart').getBoundingClientRect().bottom") < 844
    edges = "[...document.querySelectorAll('select')].map(e => e.getBoundingClientRect().right)"
    assert opened.js(f"Math.max(...{edges})") <= 390 - 10  # nothing stands over the margin
    assert opened.js("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    opened.js("document.querySelector('#rows tbody tr button').click()")
    assert opened.js("document.documentElement.scrollWidth") == 390
    opened.asked[:] = opened.asked[:1]


@needs_browser
def test_names_of_others_do_nothing(browser: Browser, tmp_path: Path) -> None:
    browser.said.clear()
    (tmp_path / "bad.html").write_text(page(hostile()))
    browser.size(1400, 1000)
    browser.open(tmp_path / "bad.html")
    browser.js("document.querySelector('#rows tbody tr button').click()")
    assert browser.js("document.images.length") == 0
    assert NASTY in browser.js("document.getElementById('about').textContent")
    assert NASTY in browser.js("document.getElementById('rows').textContent")
    assert browser.said == []


@needs_browser
def test_five_hundred_runs_are_drawn(browser: Browser, tmp_path: Path, large: str) -> None:
    browser.said.clear()
    (tmp_path / "many.html").write_text(large)
    browser.open(tmp_path / "many.html")
    assert browser.js("document.querySelectorAll('#rows tbody tr').length") == 100
    assert 5 < browser.js("document.querySelectorAll('#chart .mark').length") <= 60
    browser.click("#more")
    assert browser.js("document.querySelectorAll('#rows tbody tr').length") > 400
    assert browser.said == []
