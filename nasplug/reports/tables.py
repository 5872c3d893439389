"""The tables of a report: lists of like rows, {column: number or text}."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nasplug.reports.runs import Run
from nasplug.run.directory import CELLS, QUALITY, read_json

Rows = list[dict[str, Any]]

BEST = 10  # archs of a table
METRICS = 4  # of an arch that are shown


def methods(found: Mapping[str, Sequence[Run]]) -> Rows:
    """A row per method: how many searches, what their selected archs score and report."""
    rows = []
    for name, runs in found.items():
        _, reward, report, _ = runs[0].problem
        values, reports = (
            np.array([run.selected[key] for run in runs], dtype=float)
            for key in ("value", "report")
        )
        row = {"method": name, "searches": len(runs), reward: spread(values)}
        if report != reward:
            row[report] = spread(reports)
        row["median"] = median(reports if np.isfinite(reports).any() else values)
        trials = {run.found["trials"] for run in runs}
        few, many = min(trials), max(trials)
        row["trials"] = many if few == many else f"{few} to {many}"
        row["seconds"] = median(np.array([run.found["seconds"] for run in runs], dtype=float))
        rows.append(row)
    return rows


def searches(found: Mapping[str, Sequence[Run]]) -> Rows:
    """A row per search."""
    return [
        {
            "method": name,
            "seed": run.seed,
            "trials": run.found["trials"],
            "failed": run.found["failed"] or None,
            run.problem[1]: run.selected["value"],
            run.problem[2]: run.selected["report"],
            "seconds": run.found["seconds"],
            "stopped": run.found["stopped"],
            "arch": run.selected["arch"],
            "directory": str(run.path),
        }
        for name, runs in found.items()
        for run in runs
    ]


def best(found: Mapping[str, Sequence[Run]]) -> Rows:
    """The best archs that any search selected, each once."""
    entries = [
        (name, run, one)
        for name, runs in found.items()
        for run in runs
        for one in run.found["ranked"]
    ]
    sign = entries[0][1].sign
    entries = [entry for entry in entries if entry[2]["value"] is not None] or entries[:1]
    entries.sort(key=lambda entry: (-entry[2]["fidelity"], -sign * (entry[2]["value"] or 0)))
    rows: dict[str, dict[str, Any]] = {}
    for name, run, one in entries:
        known = list(one["metrics"].items())[:METRICS]
        rows.setdefault(
            one["arch"],
            {
                "": len(rows) + 1,
                run.problem[1]: one["value"],
                run.problem[2]: one["report"],
                **{metric: x for metric, x in known if metric not in run.problem},
                "method": name,
                "seed": run.seed,
                "arch": one["arch"],
            },
        )
        if len(rows) == BEST:
            break
    return alike(rows.values())


def settings(found: Mapping[str, Sequence[Run]]) -> Rows:
    """A row per hyperparameter or option, a column per method."""
    columns = {name: runs[0].settings for name, runs in found.items()}
    names = dict.fromkeys(name for one in columns.values() for name in one)
    return [
        {"": name, **{label: one.get(name) for label, one in columns.items()}} for name in names
    ]


def quality(run: Run) -> Rows:
    """What was measured of the subspace that it ended with and of others, a column for each."""
    spaces = read_json(run.path / "space.json", QUALITY).get("spaces", [])
    return [{"": name, **{one["space"]: one[name] for one in spaces}} for name in CELLS if spaces]


def environment(about: Sequence[Mapping[str, Any]]) -> Rows:
    """What runs were made with, from their run.json or study.json: where they differ, all of it."""
    columns: dict[str, dict[str, None]] = {}
    for one in about:
        known = one["environment"]
        plain = {
            "nasplug": one["nasplug"], "python": known["python"], "platform": known["platform"],
            "commit": known.get("git_commit"),
        }  # fmt: skip
        for name, value in {**plain, **known["versions"]}.items():
            if value is not None:
                columns.setdefault(name, {})[str(value)] = None
    return [{"": name, "version": ", ".join(values)} for name, values in columns.items()]


def command(run: Run) -> str:
    """What makes it again: from what it was made with, where the command line can say all of that;
    else as it was called."""
    about, options = run.about, run.about["options"]
    unsaid = about["within"] or about["init"] == "archs" or about["prune"] == ""
    unsaid = unsaid or options["latency"]  # a table, whose file may be gone
    if about["problem"] is None or unsaid:
        return shlex.join(about["environment"].get("command", []))
    words = ["nasplug", "run", run.method, "--on", about["problem"]]
    if about.get("method_file"):
        words[2] = f"{about['method_file']['path']}:{run.method}"
    single = {
        "budget": options["budget"], "seed": options["seed"], "evaluator": about["evaluator"],
        "reward": about["reward"], "report": about["report"], "init": about["init"],
        "prune": about["prune"],
        "max-cost": options["max_cost"], "max-seconds": options["max_seconds"],
        "isomorphs": options["isomorphs"], "scalarise": options["scalarise"],
        "workers": about["workers"],
        "repeats": None if options["repeats"] == "free" else options["repeats"],
        "fidelity": about["fidelity"] and "{}:{}".format(*about["fidelity"]),
    }  # fmt: skip
    for name, value in single.items():
        words += [] if value is None else [f"--{name}", str(value)]
    for name, values in (
        ("constraint", options["constraints"]), ("objective", options["objectives"]),
        ("set", [f"{name}={value}" for name, value in about["hyperparameters"].items()
                 if value is not None]),
    ):  # fmt: skip
        for value in values:
            words += [f"--{name}", str(value)]
    if options["asynchronous"]:
        words.append("--asynchronous")
    return shlex.join(words)


def alike(rows: Any) -> Rows:
    """Rows with the same columns, those of all."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


# ---- numbers and texts


def spread(values: np.ndarray[Any, np.dtype[np.float64]]) -> str | float | None:
    """``"94.33±0.15"``, with two digits of the standard deviation; of one value that alone."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return float(values[0]) if len(values) else None
    deviation = float(values.std(ddof=1))
    digits = 2 if deviation == 0 else min(8, max(0, 1 - math.floor(math.log10(deviation))))
    return f"{values.mean():.{digits}f}±{deviation:.{digits}f}"


def median(values: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else None
