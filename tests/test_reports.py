"""Reports: what is on the page, that it needs nothing else, and what bad input is told."""

from __future__ import annotations

import html
import json
import platform
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import nasplug
from nasplug import NasplugError, Space
from nasplug.cli import main
from nasplug.reports import charts, tables
from nasplug.reports.runs import Run, by_method
from nasplug.reports.text import latex, markdown
from nasplug.run.directory import RunDirectory, environment, write_json
from nasplug.run.report import write_csv

pytest.importorskip("plotly")
pytest.importorskip("jinja2")

ROUGH = "<b>wide</b>"
ACTS = ["<script>alert(1)</script>", "</script>"]
SPACE = Space({ROUGH: [1, 2, 3], "act": ACTS}, "my <i>own</i>")
LARGEST = 5_000_000  # bytes of a page
PROBE = """<iframe id="page" width="390" height="800" srcdoc="{page}"></iframe><script>
const wait = setInterval(() => {{
  const page = document.getElementById("page").contentDocument;
  if (!page || !page.body || !page.body.dataset.drawn) return;
  clearInterval(wait);
  document.title = JSON.stringify({{
    width: page.documentElement.clientWidth, needed: page.documentElement.scrollWidth,
    charts: page.querySelectorAll(".chart").length,
    drawn: page.querySelectorAll(".chart > .plot-container").length,
    cells: page.querySelectorAll("figure > svg").length,
    legend: page.querySelector(".legendtext")?.textContent,
    requests: page.defaultView.performance.getEntriesByType("resource").length,
  }});
}}, 20);</script>"""


def score(arch):
    return {"value": arch[ROUGH] + 0.0, "report": 10.0 * arch[ROUGH], "cost": 1.0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, nb201_table):
    """Two methods on a space of one's own with markup in all names; one on a space that draws."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NASPLUG_DATA", str(nb201_table))
        patch.setattr("nasplug.run.report.draw_picture", lambda file, draw: None)  # quick
        common = {"budget": 5, "tracking": False}
        for method in ("random", "local-search"):
            for seed in range(3):
                nasplug.search(
                    method, space=SPACE, evaluate=score, seed=seed, out=folder / f"{method}-{seed}",
                    **common,
                )  # fmt: skip
        nasplug.search("random", "nb201/toy", out=folder / "cells", batch=2, **common)
        nasplug.search(
            "nsga2", "nb201/toy", objectives=["val_acc", "-flops"], out=folder / "front <u>",
            **common,
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    pytest.importorskip("optuna")
    folder = tmp_path_factory.mktemp("studies") / "<s>tuned"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_draw", "_draw_page"):
            patch.setattr(f"nasplug.tuning.report.{name}", lambda study, place: None)  # quick
        nasplug.tune(
            "local-search", space=SPACE, evaluate=score, trials=3, seeds=1, budget=3,
            sampler="random", tracking=False, progress=False, out=folder,
        )  # fmt: skip
    return folder


class Elements(HTMLParser):
    """The tags of a page with their attributes, and the figures of its charts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.figures: list[dict] = []
        self._chart = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._chart = dict(attrs).get("type") == "application/json"

    def handle_data(self, data):
        if self._chart and data.strip():
            self.figures.append(json.loads(data))
            self._chart = False


@pytest.fixture(scope="module")
def page(runs, study, tmp_path_factory):
    sources = [*sorted(runs.iterdir()), study]
    file = nasplug.report(sources, out=tmp_path_factory.mktemp("out") / "report.html")
    return file.read_text()


def test_everything_is_on_the_page(page, runs):
    assert len(page) < LARGEST
    text = html.unescape(page)
    for heading in ("my <i>own</i>", "nb201/toy", "Front of nsga2, seed 0", "Environment"):
        assert heading in text
    assert f"python</td><td>{platform.python_version()}" in text
    assert "val_acc (more is better)" in text
    figures = Elements(page).figures
    lines = {trace["name"] for figure in figures for trace in figure["data"] if "name" in trace}
    assert {"random", "local-search", "nsga2, seed 0", "best so far"} <= lines
    traces = [trace for figure in figures for trace in figure["data"]]
    means = [trace["y"][-1] for trace in traces if trace.get("line", {}).get("width") == 2.5]
    assert means == [3.0, 3.0, 30.0, 30.0]  # of two methods, which have found what there is


def test_what_came_from_a_user_is_text(page):
    tags = [tag for tag, _ in Elements(page).tags]
    assert not {"b", "i", "u", "s"} & set(tags)
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "&lt;b&gt;wide&lt;/b&gt;" in page
    names = [trace["text"] for figure in Elements(page).figures for trace in figure["data"]
             if trace.get("type") == "scatter" and "text" in trace]  # fmt: skip
    assert names  # of archs on a front, in which plotly reads HTML
    assert "<" not in "".join(map("".join, names))


def test_it_needs_nothing_else_and_fits_a_phone(page):
    loaded = {"img": "src", "script": "src", "link": "href", "iframe": "src"}
    for tag, attributes in Elements(page).tags:
        if tag in loaded:
            assert (attributes.get(loaded[tag]) or "data:").startswith("data:")
    assert "default-src 'none'" in page  # which has a browser refuse what else there might be
    assert 'name="viewport" content="width=device-width' in page
    assert page.count('id="plotly"') == 1


def test_in_a_browser(page, tmp_path):
    """Drawn at the width of a phone without a word on the console, or a request."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    file = tmp_path / "probe.html"
    file.write_text(PROBE.format(page=html.escape(page)))
    done = subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
            "--virtual-time-budget=20000", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    found = json.loads(html.unescape(re.search("<title>(.*?)</title>", done.stdout)[1]))
    assert found["needed"] == found["width"] <= 390
    assert found["drawn"] == found["charts"] > 6
    assert found["cells"] == 2
    assert found["legend"] == "random"
    assert found["requests"] == 0


def test_the_command_makes_it_again(runs, nb201_table, tmp_path, monkeypatch):
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    for name in ("cells", "front <u>"):
        words = shlex.split(tables.command(Run.open(runs / name)))
        with pytest.raises(SystemExit, match="0"):
            main([*words[1:], "--no-track", "--out", str(tmp_path / name[:3])])
        again = (tmp_path / name[:3] / "trials.csv").read_text()
        assert again == (runs / name / "trials.csv").read_text()


def written(folder, trials, **changes):
    """A finished run with these (state, value, report, fidelity) as trials."""
    folder.mkdir()
    like = json.loads((folder.parent / "like" / "run.json").read_text())
    for name in ("format", "nasplug", "key", "checksum"):
        del like[name]
    like |= changes
    RunDirectory.create(folder, like).close()
    selection = json.loads((folder.parent / "like" / "selection.json").read_text())
    write_json(folder / "selection.json", selection)
    rows = [",".join([*trial, "True"]) for trial in trials]
    (folder / "trials.csv").write_text("\n".join(["state,value,report,fidelity,feasible", *rows]))
    return Run.open(folder)


@pytest.fixture
def like(tmp_path, monkeypatch):
    monkeypatch.setattr("nasplug.run.report.draw_picture", lambda file, draw: None)
    nasplug.search("random", space=SPACE, evaluate=score, budget=2, tracking=False,
                   out=tmp_path / "like")  # fmt: skip
    return tmp_path


def test_curves_by_hand(like):
    run = written(like / "a", [
        ("failed", "", "", ""), ("complete", "1", "7", ""), ("complete", "0", "9", ""),
        ("pruned", "5", "", ""), ("complete", "2", "6", ""), ("complete", "2", "1", ""),
    ])  # fmt: skip
    x, y = run.steps("value")
    assert x.tolist() == [2, 5, 6]
    assert y.tolist() == [1, 2, 2]
    assert run.steps("report")[1].tolist() == [7, 6, 6]
    other = written(like / "b", [("complete", "4", "0", "")] * 4)
    third = written(like / "c", [("complete", "3", "0", "")] * 4)
    figure = charts.anytime({"a": [run, other, third]}, "value")
    mean = figure["data"][-1]
    assert mean["x"] == [2, 3, 4, 5, 6]  # where all have begun
    assert mean["y"] == [pytest.approx(8 / 3, abs=1e-5)] * 3 + [3.0] * 2
    band = figure["data"][-2]
    assert band["y"][-1] == pytest.approx(8 / 3 - np.std([1, 4, 3], ddof=1), abs=1e-5)


def test_a_higher_fidelity_counts_more(like):
    run = written(like / "a", [("complete", "9", "", "1"), ("complete", "3", "", "27")])
    assert run.steps("value")[1].tolist() == [9, 3, 3]


def test_methods_that_differ_in_a_setting_are_told_apart(like):
    trials = [("complete", "1", "1", "")]
    runs = [
        written(like / f"{batch}{n}", trials, hyperparameters={"batch": batch})
        for batch in (1, 2)
        for n in range(2)
    ]
    assert {name: len(same) for name, same in by_method(runs).items()} == {
        "random batch=1": 2, "random batch=2": 2,
    }  # fmt: skip


def test_tables_for_a_paper(runs, tmp_path):
    sources = sorted(runs.glob("random-*"))
    text = nasplug.report(sources, out=tmp_path / "table.md").read_text()
    assert text.startswith("<!-- my <i>own</i>/function value -->\n| method | searches | value |")
    assert "| random | 3 | 3.00±0.00 | 30.00±0.00 | 30 | 5 |" in text
    assert r"\toprule" in nasplug.report(sources, out=tmp_path / "table.tex").read_text()
    rows = [{"name": "<b>_x|*", "n": 3, "v": "94.33±0.15", "none": None}]
    assert markdown(rows) == (
        "| name | n | v |\n| --- | ---: | ---: |\n| \\<b\\>\\_x\\|\\* | 3 | 94.33±0.15 |\n"
    )
    assert r"\textless{}b\textgreater{}\_x\textbar{}* & 3 & 94.33$\pm$0.15 \\" in latex(rows)
    assert tables.spread(np.array([94.2, 94.4, np.nan])) == "94.30±0.14"
    assert tables.spread(np.array([3.0])) == 3.0


def test_a_comparison(tmp_path):
    """From a directory as `nasplug compare` leaves it."""
    pytest.importorskip("nasplug.comparison")
    pytest.importorskip("scikit_posthocs")
    names, problem = ("random", "<b>mine</b>"), "toy/<i>data</i>"
    about = {
        "format": 1, "nasplug": "0.2.0", "key": "k", "constraints": [], "budget": 4,
        "seeds": 3, "max_cost": None, "max_seconds": None, "environment": environment(),
        "methods": [
            {"name": one, "method": "random", "hyperparameters": {"batch": 1}, "version": "0.2.0"}
            for one in names
        ],
        "problems": [
            {"name": problem, "reward": "val", "report": "test", "maximize": True,
             "evaluator": "table"}
        ],
    }  # fmt: skip
    folder = tmp_path / "compared"
    folder.mkdir()
    write_json(folder / "comparison.json", about)
    searches = [(problem, one, seed, 90 + i + seed / 10, 80 + i, 4, 0, 4.0, 0.1, "arch")
                for i, one in enumerate(names) for seed in range(3)]  # fmt: skip
    columns = "problem method seed report value trials failed cost seconds arch"
    write_csv(folder / "searches.csv", [columns.split(), *searches])
    moments = [(*row[:3], trial, trial, 0.1, row[3] - 4 + trial, row[4] - 4 + trial)
               for row in searches for trial in (1, 4)]  # fmt: skip
    columns = "problem method seed trial cost seconds report value"
    write_csv(folder / "curves.csv", [columns.split(), *moments])
    page = nasplug.report([folder], out=tmp_path / "report.html").read_text()
    assert not {"b", "i"} & {tag for tag, _ in Elements(page).tags}
    text = html.unescape(page)
    assert "Comparison compared" in text
    assert "<td>batch=1</td>" in text
    value, report, selected = (one["data"] for one in Elements(page).figures)
    assert value[-1]["y"] == [78, 78, 78, 81]
    assert report[-1]["y"] == pytest.approx([88.1, 88.1, 88.1, 91.1])
    assert selected[0]["y"] == [90, 90.1, 90.2]
    table = nasplug.report([folder], out=tmp_path / "table.md").read_text()
    assert "\\<b\\>mine\\</b\\> | 91.1" in table


def test_bad_input(runs, study, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NASPLUG_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    cut, open_run, torn = tmp_path / "cut", tmp_path / "open", tmp_path / "torn"
    for copy, source in ((cut, runs / "cells"), (open_run, runs / "cells"), (torn, study)):
        shutil.copytree(source, copy)
    (open_run / "selection.json").unlink()
    (cut / "trials.csv").write_text("state,value,feasible\ncomplete,much,True\n")
    (torn / "study.json").write_text("{}")
    page = str(tmp_path / "report.html")
    for arguments, said in (
        (["nowhere", "--out", page], "nowhere is no directory"),
        ([str(tmp_path), "--out", page], "no run directory"),
        ([str(open_run), "--out", page], f"nasplug resume {open_run}"),
        ([str(cut), "--out", page], "damaged"),
        ([str(torn), "--out", page], "study.json"),
        ([str(runs / "cells"), "--out", "report.pdf"], ".html (a page), .md"),
        ([str(runs / "cells"), "--out", str(tmp_path / "no" / "x.html")], "is no folder"),
        (["--out", page], "Missing argument"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["report", *arguments])
        assert said in capsys.readouterr().err
    assert not Path(page).exists()
    with pytest.raises(NasplugError, match="a list of"):
        nasplug.report("cells", out=page)
