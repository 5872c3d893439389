"""What a search leaves: selection.json, trials.csv and the pictures for people, selection.npz and
subspace.npz for `nasplug.load`."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nasplug.analysis.pictures import draw_picture
from nasplug.errors import NasplugError
from nasplug.files import replacing
from nasplug.kernel.selection import Selection
from nasplug.kernel.trial import State, Trial
from nasplug.run.directory import write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VOLUMES = "hypervolume.csv"  # trial by trial at which it grew
RANKED = 100  # archs of a selection that selection.json spells out
DOTS = 5_000  # trials that the curve draws one by one; of more, a random sample, on a log scale
BLOCK = 10_000  # trials that are turned into text at a time
BLUE, ORANGE, GRAY, RED = "#2f6db5", "#d9822b", "#9aa3ad", "#c0392b"


def write(selection: Selection, path: Path, known: str = "") -> str:
    """All of it, into the run directory; the digest of trials.csv. One whose digest is `known` has
    all trials, and stays. Pictures need matplotlib, and are left out without."""
    write_json(path / "selection.json", summary(selection))
    with replacing(path / "selection.npz") as file:
        np.savez(file, archs=selection.archs)
    trials = path / "trials.csv"
    if not known or known != _digest(trials):
        write_csv(trials, _trial_rows(selection))
        known = _digest(trials)
    if selection.subspace is not None:
        with replacing(path / "subspace.npz") as file:
            selection.subspace.save(file)
    for name, write_file in selection.files.items():
        with replacing(path / name) as file:
            write_file(file)
    if selection.search.objectives is None:
        draw_picture(path / "curve.png", lambda figure: draw_curve(selection, figure))
    else:
        _write_front(selection, path)
    if draw := getattr(selection.search.space, "draw", None):
        draw_picture(path / "cell.png", lambda figure: _draw_best(selection, draw, figure))
    for name, draw_figure in selection.pictures.items():
        draw_picture(path / name, draw_figure)
    return known


def _write_front(selection: Selection, path: Path) -> None:
    """The front and how its hypervolume grew, as tables and as a picture."""
    front, search = selection.front, selection.search
    rows = front.rows()
    write_csv(path / "front.csv", [rows[0], *(row.values() for row in rows)])
    volumes = search.objectives.volumes(search.trials)
    grown = np.flatnonzero(np.diff(volumes, prepend=0.0)).tolist()
    write_csv(path / VOLUMES, [("trial", "hypervolume"), *((n, volumes[n]) for n in grown)])
    draw_picture(path / "front.png", lambda figure: draw_front(selection, volumes, figure))


def brief(selection: Selection) -> dict[str, Any]:
    """What ``--json`` prints."""
    search, best = selection.search, selection.best
    return {
        "method": search.method_name,
        "problem": search.problem.name,
        "seed": search.seed,
        "trials": len(search.trials),
        "failed": int((search.trials.states == State.FAILED).sum()),
        "best": {"arch": str(best), "value": _number(best.value), "report": selection.report},
        **_front(selection),
        "seconds": round(search.elapsed, 3),
        "run_dir": str(selection.run_dir) if selection.run_dir else None,
    }


def summary(selection: Selection, n: int = RANKED) -> dict[str, Any]:
    """selection.json: the same, the selected archs best first, and what is known of each."""
    problem, subspace = selection.search.problem, selection.subspace
    return {
        **brief(selection),
        "reward": problem.reward,
        "report": problem.report,
        "stopped": selection.search.stopped,
        "subspace": subspace.describe() if subspace is not None else None,
        "archs": [selection.search.space.to_str(arch) for arch in selection.archs[:n]],
        "ranked": [_described(trial) for trial in selection.ranked(n)],
    }


def _front(selection: Selection) -> dict[str, Any]:
    """What a search with several objectives came to; nothing of one with one."""
    if selection.search.objectives is None:
        return {}
    front = selection.front
    return {
        "objectives": front.names, "front": front.rows(), "hypervolume": front.hypervolume,
        "reference": front.reference,
    }  # fmt: skip


def table(selection: Selection, n: int = 5) -> list[dict[str, Any]]:
    """The best archs as rows of numbers for people: rank, trial, arch, value, report and, where
    the benchmark or the space knows them, params and flops. The reward and the report metric
    go by their own names."""
    search = selection.search
    reward, report = search.problem.reward, search.problem.report
    several = len(set(search.trials.fidelities.tolist())) > 1
    rows = []
    for rank, trial in enumerate(selection.ranked(n), start=1):
        row: dict[str, Any] = {
            "rank": rank,
            "trial": trial.number if trial.number >= 0 else None,
            **({search.problem.fidelity[0]: trial.fidelity} if several else {}),
            reward: _number(trial.value),
            report: _number(trial.report_value),
        }
        if "latency" in search.trials.metrics:
            row["latency"] = _number(trial.metrics.get("latency", math.nan))
        for name in ("params", "flops"):
            row[name] = _number(trial.metrics.get(name, math.nan)) or _size(trial, name)
        rows.append({**row, "arch": str(trial)})
    return rows


def draw_curve(selection: Selection, figure: Figure) -> None:
    """The anytime curve: every trial, the best so far, and what the best so far reports. Trials
    that lie far below are marked at the edge."""
    ax = figure.add_subplot()
    search, trials = selection.search, selection.search.trials
    x = np.arange(1, len(trials) + 1)
    values = np.where(trials.states == State.FAILED, np.nan, trials.values)
    incumbent = incumbents(trials.ranks)
    known = incumbent >= 0
    best = trials.values[incumbent]
    reward, report = search.problem.reward, search.problem.report

    shown = np.flatnonzero(np.isfinite(values))
    if len(shown) > DOTS:
        shown = np.random.default_rng(0).choice(shown, DOTS, replace=False)
    size = float(np.clip(4000 / max(1, len(shown)), 3, 20))
    full = trials.fidelities[shown] == search.full
    ax.scatter(
        x[shown], values[shown], s=size, color=GRAY, linewidths=0,
        alpha=np.where(full, 0.6, 0.25),  # type: ignore[arg-type]  # which takes one for each
        label="trial" if full.all() else f"trial, pale below {search.full} {search.fidelity[0]}",
    )  # fmt: skip
    lines = [*ax.step(x[known], best[known], where="post", color=BLUE, lw=2, label="best so far")]
    ax.set(xlabel="trials", ylabel=reward, xlim=(0, len(trials) + 1))
    ax.locator_params("x", integer=True)
    if len(trials) > DOTS:
        ax.set(xscale="log", xlim=(1, len(trials)))
    low, high = limits(values, best[known], search.maximize)
    ax.set_ylim(low, high)
    for outside, edge, mark, color, words in (
        (values < low, 0.02, "v", GRAY, "below"),
        (values > high, 0.98, "^", GRAY, "above"),
        (trials.states == State.FAILED, 0.06, "x", RED, "failed"),
    ):
        if n := int(outside.sum()):
            lines += ax.plot(
                x[outside], np.full(n, edge), mark, color=color, ms=5, mew=0 if mark != "x" else 1,
                transform=ax.get_xaxis_transform(), label=f"{words} ({n:,})",
            )  # fmt: skip
    reports = trials.reports[incumbent]
    if report != reward and np.isfinite(reports[known]).any():
        right = ax.twinx()
        lines += right.step(
            x[known], reports[known], where="post", color=ORANGE, lw=1.5, ls=(0, (4, 2)),
            label=f"{report} of the best so far",
        )  # fmt: skip
        right.set_ylim(limits(trials.reports, reports[known], search.maximize))
        right.set_ylabel(report, color=ORANGE)
        right.tick_params(axis="y", colors=ORANGE)
        right.spines[["top", "left"]].set_visible(False)
    ax.spines["top"].set_visible(False)
    ax.spines["right"].set_visible(False)
    ax.grid(alpha=0.2)
    ax.set_axisbelow(True)
    chosen = (
        selection.best.value
    )  # of a supernet's arch the last score, which may be below its best
    word = "best" if known.any() and chosen == best[-1] else "selected"
    final = f", {word} {chosen:.4g}" if np.isfinite(chosen) else ""
    ax.set_title(f"{search.method_name} on {search.problem.name}{final}", loc="left", weight="bold")
    handles = [ax.collections[0], *lines]
    ax.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4, frameon=False
    )


def draw_front(selection: Selection, volumes: npt.NDArray[np.float64], figure: Figure) -> None:
    """Every trial, the front with its knee by the first two objectives, and the hypervolume."""
    figure.set_size_inches(11, 4.5)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    search, front, knee = selection.search, selection.front, selection.best
    (x, y), at = search.objectives.columns(search.trials)[:2], front.columns
    shown = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if len(shown) > DOTS:
        shown = np.random.default_rng(0).choice(shown, DOTS, replace=False)
    left.scatter(x[shown], y[shown], s=8, color=GRAY, alpha=0.6, linewidths=0, label="trial")
    order = np.argsort(at[0])
    left.plot(at[0][order], at[1][order], ".-", color=BLUE, lw=1, label=f"front ({len(front)})")
    row = int(np.flatnonzero(front.trials.numbers == knee.number)[0])
    left.plot(at[0][row], at[1][row], "o", color=ORANGE, ms=8, label="knee")
    names = [f"{name.removeprefix('-')} ({'less' if name[0] == '-' else 'more'} is better)"
             for name in front.names]  # fmt: skip
    left.set(xlabel=names[0], ylabel=names[1])
    for ax, column, values in ((left.set_xlim, x, at[0]), (left.set_ylim, y, at[1])):
        ax(_window(column, values))
    right.step(np.arange(1, len(volumes) + 1), volumes, where="post", color=BLUE, lw=2)
    right.set(xlabel="trials", ylabel="hypervolume", xlim=(0, len(volumes) + 1))
    right.locator_params("x", integer=True)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.2)
        ax.set_axisbelow(True)
    reference = ", ".join(f"{x:.4g}" for x in front.reference)
    right.set_title(f"against {reference}", loc="left", fontsize=9)
    left.set_title(f"{search.method_name} on {search.problem.name}", loc="left", weight="bold")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False)


def _window(column: npt.NDArray[np.float64], front: npt.NDArray[np.float64]) -> tuple[float, float]:
    """A range with the front and most trials in it, for those far away would flatten it."""
    low, high = np.nanquantile(column, (0.05, 0.95))
    low, high = min(low, front.min()), max(high, front.max())
    margin = 0.05 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _draw_best(selection: Selection, draw: Callable[..., None], figure: Figure) -> None:
    figure.set_size_inches(6, 4)
    best, ax = selection.best, figure.add_subplot()
    draw(best.arch, ax)
    row = table(selection, 1)[0]
    words = [f"{name} {row[name]:.4g}" for name in list(row)[2:4] if row[name] is not None]
    if row["params"]:
        words.append(f"{row['params'] / 1e6:.2f} M parameters")
    where = f"{selection.search.method_name} on {selection.search.problem.name}"
    ax.set_title("\n".join([where, ", ".join(words)]), fontsize=10)


def incumbents(ranks: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """(n,) the trial that was best at each moment; -1 before the first good one."""
    if not len(ranks):
        return np.empty(0, dtype=np.intp)
    best = np.maximum.accumulate(ranks)
    better = np.append(np.isfinite(best[:1]), best[1:] > best[:-1])
    return np.maximum.accumulate(np.where(better, np.arange(len(ranks)), -1))


def limits(
    values: npt.NDArray[np.float64], best: npt.NDArray[np.float64], maximize: bool
) -> tuple[float, float]:
    """A range that shows the curve's climb; trials far below the median may fall outside of it."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    sign = 1 if maximize else -1
    top, lowest = (sign * finite).max(), (sign * finite).min()
    spread = top - np.median(sign * finite) or top - lowest
    bottom = max(lowest, top - 3 * spread)
    # The climb is seen from its start, unless that is so low that it would flatten all the rest.
    first = (sign * best).min() if len(best) else top
    bottom = min(bottom, max(first, top - 6 * spread))
    margin = 0.06 * (top - bottom) or 0.05 * abs(top) or 1.0
    low, high = sorted((sign * (bottom - margin), sign * (top + margin)))
    return float(low), float(high)


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """A table, whole or not at all; unknown numbers are empty cells.

    A text that a spreadsheet would run as a formula, since it begins with one of `=+-@`, gets an
    apostrophe before it, as OWASP advises: ``=1+1`` is written ``'=1+1``. Numbers stay as they are.
    """
    with (
        replacing(path) as file,
        file.open("w", newline="", encoding="utf-8", errors="backslashreplace") as handle,
    ):
        csv.writer(handle).writerows(map(_cell, row) for row in rows)


def _digest(file: Path) -> str:
    """Of what is in it; '' if it cannot be read."""
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:
        return ""


def _cell(content: Any) -> Any:
    """What a cell of the table holds."""
    if isinstance(content, (float, int, Number)):  # the first two, which most are, at once
        return "" if content != content else content
    if content is None:
        return ""
    text = str(content)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _trial_rows(selection: Selection) -> Iterator[Iterable[Any]]:
    """The names of the columns, then all trials."""
    trials = selection.search.trials
    for first in range(0, len(trials), BLOCK):
        rows = slice(first, first + BLOCK)
        columns = trials.to_dict(rows)
        columns["repeat"] = trials.repeats[rows].tolist()
        columns["feasible"] = trials.feasible[rows].tolist()
        numbers = range(len(trials))[rows]
        columns["error"] = [trials.notes.get(i, {}).get("error", "") for i in numbers]
        if first == 0:
            yield columns
        yield from zip(*columns.values(), strict=True)


def _described(trial: Trial) -> dict[str, Any]:
    return {
        "arch": str(trial),
        "trial": trial.number if trial.number >= 0 else None,
        "value": _number(trial.value),
        "report": _number(trial.report_value),
        "cost": _number(trial.cost),
        "fidelity": trial.fidelity,
        "metrics": {name: _number(x) for name, x in trial.metrics.items()},
        "params": {name: _plain(choice) for name, choice in trial.params.items()},
    }


def _plain(choice: Any) -> Any:
    return choice if isinstance(choice, str | int | float | bool | None) else str(choice)


def _number(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def _size(trial: Trial, name: str) -> float | None:
    try:
        return float(getattr(trial.space, name)(trial.arch[None])[0])
    except NasplugError:
        return None
