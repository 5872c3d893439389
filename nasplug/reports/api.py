"""The Python door: `report`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from nasplug.errors import NasplugError, lacking
from nasplug.files import replacing
from nasplug.reports import tables
from nasplug.reports.runs import Run, by_method, groups
from nasplug.reports.study import Study
from nasplug.reports.text import latex, markdown
from nasplug.tracking import is_study, run_folders

WORDS = {".html": "a page", ".md": "Markdown", ".tex": "LaTeX"}


def report(sources: Sequence[Path | str], out: Path | str) -> Path:
    """What some searches, studies and comparisons came to, written to one file.

    sources: directories of runs, studies and comparisons; names of MLflow experiments (their runs
        are found by the store, and read from the run directories that they name; those that have
        not finished are left out).
    out: ``report.html``, a page that needs neither network nor another file; or a table of the
        methods for a paper, ``table.md`` or ``table.tex``.

    Returns `out`. NasplugError for a source that is not there, is damaged, or has not finished.
    """
    if isinstance(sources, str | Path) or not sources:
        raise NasplugError(
            "report takes a list of directories and of experiments: report([run_dir], out=...)"
        )
    file = Path(out)
    if file.suffix not in WORDS:
        known = ", ".join(f"{suffix} ({words})" for suffix, words in WORDS.items())
        raise NasplugError(f"a report is written as {known}; got {file.name!r}")
    runs: list[Run] = []
    studies: list[Study] = []
    comparisons: list[Any] = []
    for source in dict.fromkeys(str(source) for source in sources):
        if is_study(Path(source)):
            studies.append(Study.open(Path(source)))
        elif (Path(source) / "comparison.json").exists():
            comparisons.append(import_module("nasplug.comparison").Comparison(source))
        elif (Path(source) / "run.json").exists():
            runs.append(Run.open(Path(source)))
        else:
            runs += _experiment(source)
    found = (runs, studies, comparisons)
    text = _page(*found) if file.suffix == ".html" else _table(*found, file.suffix)
    if not file.parent.is_dir():
        raise NasplugError(f"{file.parent}, where {file.name} is to go, is no folder")
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    return file


def _experiment(name: str) -> Iterator[Run]:
    """The finished searches of an MLflow experiment whose directories are on this machine."""
    if Path(name).exists():
        raise NasplugError(f"{name} is no run directory and no study: it has no run.json")
    folders = run_folders(name)
    runs, left_out = [], []
    for folder in folders:
        try:
            runs.append(Run.open(folder))
        except NasplugError as error:
            left_out.append(str(error))
    if not runs:
        why = f"; the last of {len(left_out)}: {left_out[-1]}" if left_out else ""
        raise NasplugError(f"experiment {name} has no finished search on this machine{why}")
    if left_out:
        print(f"{len(left_out)} of {len(folders)} searches of {name} are left out; the last: "
              f"{left_out[-1]}", file=sys.stderr)  # fmt: skip
    yield from runs


def _page(runs: Sequence[Run], studies: Sequence[Study], comparisons: Sequence[Any]) -> str:
    try:
        module = import_module("nasplug.reports.page")
    except ImportError as error:
        raise lacking("a page", error) from None
    text: str = module.page(runs, studies, comparisons)
    return text


def _table(
    runs: Sequence[Run], studies: Sequence[Study], comparisons: Sequence[Any], suffix: str
) -> str:
    """A table per problem and per study, under its name as a comment."""
    found = {
        " ".join(map(str, problem[:2])): tables.methods(by_method(same))
        for problem, same in groups(runs, "problem").items()
    }
    found |= {f"study {study.about['name']}": study.best for study in studies}
    for comparison in comparisons:
        rows = import_module("nasplug.comparison.report").rows
        name = comparison.path.name
        found |= {f"{name} {one}": rows(comparison, one) for one in comparison.problems}
    written, comment = {
        ".md": (markdown, "<!-- {} -->"), ".tex": (latex, "% {}"),
    }[suffix]  # fmt: skip
    parts = [
        f"{comment.format(' '.join(name.replace('--', '').split()))}\n{written(rows)}"
        for name, rows in found.items()
    ]
    return "\n".join(parts)
