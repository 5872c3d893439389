"""What a page says of a comparison of methods, `nasplug.comparison.Comparison`."""

from __future__ import annotations

import shlex
from importlib import import_module
from typing import Any

from nasplug.reports import cells, charts


def described(comparison: Any) -> dict[str, Any]:
    """A table and charts per problem, with what the statistics say."""
    report = import_module("nasplug.comparison.report")
    about = comparison.about
    return {
        "name": comparison.path.name,
        "about": about,
        "notes": report.notes(comparison),
        "problems": [
            {
                "name": name, "rows": report.rows(comparison, name),
                "figures": _figures(comparison, name), "tests": _tests(comparison, name),
            }
            for name in comparison.problems
        ],
        "ranks": [{"method": k, "mean rank": v} for k, v in comparison.ranks().items()],
        "differences": cells.png(comparison.path / "cd.png"),
        "methods": [
            {"name": one["name"], "method": one["method"], "version": one["version"],
             "hyperparameters": [f"{k}={v}" for k, v in one["hyperparameters"].items()]}
            for one in about["methods"]
        ],
        "command": shlex.join(about["environment"]["command"]),
    }  # fmt: skip


def _figures(comparison: Any, problem: str) -> list[tuple[str, charts.Figure]]:
    """Anytime curves with their bands, and what the searches have selected."""
    about, bands = comparison.problem(problem), comparison.bands()
    rows = bands[bands.problem == problem]
    columns = {"value": about["reward"]}
    if comparison.measured(problem) == "report":
        columns["report"] = about["report"]
    figures = []
    for column, name in columns.items():
        curves = {method: rows[rows.method == method] for method in comparison.methods}
        lines = {
            method: tuple(curve[key] for key in ("x", column, f"{column}_low", f"{column}_high"))
            for method, curve in curves.items()
        }
        title = f"{name} of the best so far, mean with 95 % band"
        figures.append((title, charts.bands(lines, comparison.axis, name, about["maximize"])))
    final = comparison.final(problem)
    boxes = {method: final[method].tolist() for method in comparison.methods}
    name = about["reward" if comparison.measured(problem) == "value" else "report"]
    figures.append(("", charts.boxes(boxes, f"{name} of the selected arch")))
    return figures


def _tests(comparison: Any, problem: str) -> list[dict[str, Any]]:
    """A row per pair of methods."""
    tests = comparison.tests()
    rows = tests[tests.problem == problem].drop(columns="problem").to_dict("records")
    return [{key: None if x != x else x for key, x in row.items()} for row in rows]
