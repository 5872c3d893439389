"""The report as one page that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import gzip
import shlex
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader
from plotly.offline import get_plotlyjs

from nasplug._version import __version__
from nasplug.reports import cells, charts, tables, text
from nasplug.reports.comparison import described
from nasplug.reports.runs import Run, by_method, groups
from nasplug.reports.study import Study

OPEN = 30  # rows of a table that are shown without asking for them
SHOWN = 6  # methods of a problem whose best search is shown: its cell, front, subspace, pictures


def page(runs: Sequence[Run], studies: Sequence[Study], comparisons: Sequence[Any]) -> str:
    """All of it as HTML; whatever came from a user is shown as text."""
    environment = Environment(
        loader=PackageLoader("nasplug.reports", "."), autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "cell": text.cell, "columns": text.columns, "numeric": text.numeric,
    }  # fmt: skip
    return environment.get_template("page.html").render(
        problems=[_problem(same) for same in groups(runs, "problem").values()],
        studies=[_study(study) for study in studies],
        comparisons=[described(comparison) for comparison in comparisons],
        environment=tables.environment(
            [one.about for kind in (runs, studies, comparisons) for one in kind]
        ),
        plotly=_plotly(),
        shown=OPEN,
        version=__version__,
        time=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def _problem(runs: list[Run]) -> dict[str, Any]:
    """What the page says of the searches of one problem."""
    name, reward, report, sign = runs[0].problem
    found = by_method(runs)
    leaders = {label: _leader(same) for label, same in found.items()}
    shown = list(leaders.items())[:SHOWN]
    figures = [("Best so far", charts.anytime(found, "value"))]
    if report != reward:
        figures.append(("What the best so far reports", charts.anytime(found, "report")))
    if len(runs) > len(found):
        figures.append(("The selected archs", charts.finals(found)))
    figures += [
        ("Front", charts.fronts(by_method(same)))
        for objectives, same in groups(runs, "objectives").items()
        if objectives
    ]
    return {
        "name": name, "reward": reward, "report": report,
        "direction": "maximized" if sign > 0 else "minimized",
        "methods": tables.methods(found),
        "figures": [(title, figure) for title, figure in figures if figure],
        "best": tables.best(found),
        "cells": [(label, run, it) for label, run in shown if (it := cells.cell(run))],
        "pictures": [(label, run, it) for label, run in shown if (it := cells.others(run))],
        "fronts": [
            (f"{label}, seed {run.seed}", run.found["front"], run.found["hypervolume"])
            for label, run in shown if run.objectives
        ],
        "regions": [
            (label, run, cells.choices(run), tables.quality(run))
            for label, run in shown if run.found["subspace"]
        ],
        "searches": tables.searches(found),
        "settings": tables.settings(found),
        "commands": [tables.command(run) for run in runs],
    }  # fmt: skip


def _leader(runs: Sequence[Run]) -> Run:
    """The search whose selected arch has the best reward."""

    def utility(run: Run) -> float:
        value = run.selected["value"]
        return float("-inf") if value is None else run.sign * float(value)

    return max(runs, key=utility)


def _study(study: Study) -> dict[str, Any]:
    """What the page says of a study."""
    about = study.about
    name, sign = about["objectives"][0], 1 if about["maximized"] else -1
    tuned = {param: study.column(param) for param in about["tuned"]}
    values = study.column(name)
    return {
        "about": about, "path": study.path, "best": study.best,
        "figures": [
            ("Trials", charts.history(values, name, sign)),
            *(("", figure) for figure in charts.slices(tuned, values, name)),
        ],
        "command": shlex.join(about["environment"].get("command", [])),
    }  # fmt: skip


@cache
def _plotly() -> str:
    """plotly.js, far larger than all the rest: packed, and unpacked by the browser."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
