"""The charts of a report: figures as plotly.js takes them, dicts of "data" and "layout"."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from nasplug.reports.runs import Run
from nasplug.run.report import DOTS, limits

Figure = dict[str, Any]

COLORS = (
    "#2f6db5", "#d9822b", "#4c9f70", "#9b59b6", "#c0392b", "#16a2b8", "#8c6d31", "#6b7280",
)  # fmt: skip
GRAY = "#9aa3ad"
GRID = 200  # moments at which curves are averaged
SEVERAL = 3  # searches of a method from which their mean is drawn
DIGITS = 6  # of numbers: what a screen can show


def anytime(found: Mapping[str, Sequence[Run]], column: str) -> Figure | None:
    """The `column`, "value" or "report", of the best so far by trials: of every search, and of each
    method mean and standard deviation. None if nothing is known of it."""
    first = next(iter(found.values()))[0]
    single = len(found) == 1 and len(_runs(found)) == 1
    data, shown, ends = [], [], []
    if single and column == "value":
        data.append(_dots(first.trials["value"]))
    for (name, runs), color in zip(found.items(), cycle(COLORS)):
        curves = [curve for run in runs if len((curve := run.steps(column))[0])]
        curves = [curve for curve in curves if np.isfinite(curve[1]).any()]
        if not curves:
            continue
        several = len(curves) >= SEVERAL
        x = np.concatenate([np.append(x, np.nan) for x, _ in curves])
        y = np.concatenate([np.append(y, np.nan) for _, y in curves])
        shown.append(y)
        ends += [y[-1] for _, y in curves]
        data.append({
            **_line(name, x, y, color, 1 if several else 2), "legendgroup": _text(name),
            "opacity": min(1.0, 4 / len(curves)) if several else 1, "showlegend": not several,
            "hoverinfo": "skip" if several else "all",
        })  # fmt: skip
        if several:
            data += _mean(name, curves, color)
    if not data:
        return None
    values = np.concatenate(shown)
    if single and column == "value":
        low, high = limits(first.trials["value"], values[np.isfinite(values)], first.sign > 0)
    else:
        low, high = _window(values, np.array(ends), first.sign)
    label = first.about["scores"]["reward" if column == "value" else "report"]
    return _figure(data, "trials", f"{label} of the best so far", yaxis={"range": [low, high]})


def _runs(found: Mapping[str, Sequence[Run]]) -> list[Run]:
    return [run for runs in found.values() for run in runs]


def finals(found: Mapping[str, Sequence[Run]]) -> Figure:
    """How the selected archs of each method's searches are distributed, by what is reported of
    them if anything is."""
    runs = _runs(found)
    key = "report" if any(run.selected["report"] is not None for run in runs) else "value"
    label = runs[0].about["scores"]["reward" if key == "value" else "report"]
    values = {name: [run.selected[key] for run in same] for name, same in found.items()}
    return boxes(values, f"{label} of the selected arch")


def boxes(found: Mapping[str, Sequence[float | None]], y: str) -> Figure:
    """A box per name, and a dot per value."""
    data = [
        {
            "type": "box", "name": _text(name), "y": _plain(values), "boxpoints": "all",
            "jitter": 0.5, "pointpos": 0, "marker": {"size": 4, "color": color},
            "showlegend": False,
        }
        for (name, values), color in zip(found.items(), cycle(COLORS))
    ]  # fmt: skip
    return _figure(data, "", y)


def bands(found: Mapping[str, Sequence[Any]], x: str, y: str, maximize: bool) -> Figure:
    """A line and a band around it per name, from its columns x, y, low and high."""
    data, shown = [], []
    for (name, columns), color in zip(found.items(), cycle(COLORS)):
        at, mean, low, high = (np.asarray(column, dtype=float) for column in columns)
        data += _banded(name, at, mean, low, high, color)
        shown.append(mean)
    ends = np.array([mean[-1] for mean in shown if len(mean)])
    window = _window(np.concatenate(shown), ends, 1 if maximize else -1)
    return _figure(data, x, y, yaxis={"range": window})


def fronts(found: Mapping[str, Sequence[Run]]) -> Figure:
    """The fronts of searches with several objectives, by the first two, with their knees."""
    data = []
    for (name, runs), color in zip(found.items(), cycle(COLORS)):
        for run in runs:
            x, y = (objective.removeprefix("-") for objective in run.found["objectives"][:2])
            rows = sorted(run.found["front"], key=lambda row: row[x])
            label = f"{name}, seed {run.seed}"
            trace = _line(label, [row[x] for row in rows], [row[y] for row in rows], color, 1)
            data.append({
                **trace, "mode": "lines+markers", "line": {"color": color, "width": 1},
                "marker": {
                    "symbol": ["star" if row["knee"] else "circle" for row in rows],
                    "size": [13 if row["knee"] else 6 for row in rows],
                },
                "text": [_text(row["arch"]) for row in rows],
            })  # fmt: skip
    x, y = (
        f"{name.removeprefix('-')} ({'less' if name[0] == '-' else 'more'} is better)"
        for name in run.found["objectives"][:2]
    )
    return _figure(data, x, y)


def history(values: Sequence[float | None], name: str, sign: int) -> Figure:
    """Trials of a study, and the best so far."""
    column = np.array(values, dtype=float)
    utilities = np.where(np.isnan(column), -np.inf, sign * column)
    best = sign * np.maximum.accumulate(utilities)
    trials = np.arange(1, len(column) + 1)
    line = _line("best so far", trials, best, COLORS[0], 2)
    return _figure([_dots(column), line], "trials", name)


def slices(
    params: Mapping[str, Sequence[Any]], values: Sequence[float | None], name: str
) -> list[Figure]:
    """A figure for each tuned hyperparameter: what each of its values scored."""
    return [
        _figure(
            [{
                "type": "scatter", "mode": "markers", "x": [_text(x) for x in column],
                "y": _plain(values), "marker": {"color": COLORS[0]}, "showlegend": False,
            }],
            hyperparameter, name, height=300,
        )
        for hyperparameter, column in params.items()
    ]  # fmt: skip


def _mean(
    name: str, curves: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]], color: str
) -> list[dict[str, Any]]:
    """The mean of some step curves, where all have begun and not all have ended, and the band of
    one standard deviation around it."""
    start, end = max(x[0] for x, _ in curves), max(x[-1] for x, _ in curves)
    grid = np.unique(np.linspace(start, end, GRID).round())
    rows = np.array([y[np.searchsorted(x, grid, side="right") - 1] for x, y in curves])
    mean, deviation = rows.mean(0), rows.std(0, ddof=1)
    return _banded(name, grid, mean, mean - deviation, mean + deviation, color)


def _banded(
    name: str, x: npt.NDArray[Any], mean: npt.NDArray[Any], low: npt.NDArray[Any],
    high: npt.NDArray[Any], color: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """A band, and the line in it."""
    group, edges = {"legendgroup": _text(name)}, np.concatenate([high, low[::-1]])
    band = {
        **_line(name, np.concatenate([x, x[::-1]]), edges, color, 0), "fill": "toself",
        "fillcolor": f"{color}26", "showlegend": False, "hoverinfo": "skip",
        "line": {"width": 0},
    }  # fmt: skip
    return [{**band, **group}, {**_line(name, x, mean, color, 2.5), **group}]


def _line(
    name: str, x: Iterable[Any], y: Iterable[Any], color: str, width: float
) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "name": _text(name), "x": _plain(x), "y": _plain(y),
        "line": {"color": color, "width": width, "shape": "hv"},
    }  # fmt: skip


def _dots(values: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Trials one by one; of many a random sample."""
    shown = np.flatnonzero(np.isfinite(values))
    if len(shown) > DOTS:
        shown = np.sort(np.random.default_rng(0).choice(shown, DOTS, replace=False))
    return {
        "type": "scatter", "mode": "markers", "name": "trial", "x": _plain(shown + 1),
        "y": _plain(values[shown]), "marker": {"color": GRAY, "size": 4, "opacity": 0.6},
    }  # fmt: skip


def _window(
    values: npt.NDArray[np.float64], ends: npt.NDArray[np.float64], sign: int
) -> tuple[float, float]:
    """A range that shows where curves end and most of their climb: the first steps of a few would
    flatten it."""
    known = sign * values[np.isfinite(values)]
    top, lowest = known.max(), (sign * ends[np.isfinite(ends)]).min()
    bottom = min(lowest, float(np.quantile(known, 0.25)))
    margin = 0.06 * (top - bottom) or 0.05 * abs(top) or 1.0
    low, high = sorted((sign * (bottom - margin), sign * (top + margin)))
    return float(low), float(high)


def _figure(
    data: Sequence[Mapping[str, Any]], x: str, y: str, yaxis: Mapping[str, Any] | None = None,
    height: int = 420,
) -> Figure:  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": _text(x)}, "automargin": True},
        "yaxis": {"title": {"text": _text(y)}, "automargin": True, **(yaxis or {})},
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top"},
        "margin": {"l": 10, "r": 10, "t": 20, "b": 10},
        "height": height, "hovermode": "closest", "plot_bgcolor": "#fff",
        "font": {"family": "system-ui, sans-serif"},
    }  # fmt: skip
    for axis in ("xaxis", "yaxis"):
        layout[axis] |= {"gridcolor": "#e5e7eb", "zeroline": False}  # type: ignore[operator]
    return {"data": list(data), "layout": layout}


def _text(text: Any) -> str:
    """Plotly reads some HTML in names, of which a user's own is none."""
    return html.escape(str(text), quote=False)


def _plain(values: Iterable[Any]) -> list[float | None]:
    """Numbers for JSON; what is not finite as a gap."""
    column = np.array(list(values), dtype=float)
    return [float(f"{x:.{DIGITS}g}") if np.isfinite(x) else None for x in column.tolist()]
