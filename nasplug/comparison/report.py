"""What a comparison leaves: tables for programs, tables for a paper, pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, comb, log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nasplug.analysis.pictures import draw_picture
from nasplug.comparison.pictures import draw_critical_differences, draw_curves, draw_final
from nasplug.comparison.result import LEVEL, Comparison
from nasplug.comparison.searches import Record, Task
from nasplug.files import replacing
from nasplug.run.markup import in_latex, in_markdown
from nasplug.run.report import write_csv

if TYPE_CHECKING:
    import pandas as pd

SEARCH = ("report", "value", "trials", "failed", "cost", "seconds", "arch")
WRITTEN = (  # files of a comparison; the last one of several problems
    "searches.csv", "curves.csv", "bands.csv", "summary.csv", "tests.csv", "table.md", "table.tex",
    "curve.png", "final.png", "cd.png",
)  # fmt: skip
MOMENT = ("trial", "cost", "seconds", "report", "value")  # of a record's curve


def write(folder: Path, found: Sequence[tuple[Task, Record]]) -> None:
    """All of it, into the comparison directory."""
    rows, moments = [], []
    for task, record in found:
        about = (task.on, task.contender.name, task.seed)
        rows.append((*about, *(record[name] for name in SEARCH)))
        moments += [(*about, *moment) for moment in record["curve"]]
    names = ("problem", "method", "seed")
    write_csv(folder / "searches.csv", [(*names, *SEARCH), *rows])
    write_csv(folder / "curves.csv", [(*names, *MOMENT), *moments])
    comparison = Comparison(folder)
    for table in ("bands", "summary", "tests"):
        content = getattr(comparison, table)()
        write_csv(folder / f"{table}.csv", [content.columns, *content.itertuples(index=False)])
    for name, text in {"table.md": markdown(comparison), "table.tex": latex(comparison)}.items():
        with replacing(folder / name) as file:
            file.write_text(text, encoding="utf-8", errors="backslashreplace")
    draw_picture(folder / "curve.png", lambda figure: draw_curves(comparison, figure))
    draw_picture(folder / "final.png", lambda figure: draw_final(comparison, figure))
    if len(comparison.problems) > 1:
        draw_picture(
            folder / "cd.png", lambda figure: draw_critical_differences(comparison, figure)
        )


# ---- for people


def rows(comparison: Comparison, problem: str) -> list[dict[str, Any]]:
    """A row per method, best first, as people read them; wins, ties and losses are those against
    all others, seed by seed, and p is that it is as good as the first."""
    about, summary = comparison.problem(problem), comparison.summary()
    summary = summary[summary.problem == problem]
    summary = summary.sort_values("mean", ascending=not about["maximize"], kind="stable")
    tests = comparison.tests()
    tests = tests[tests.problem == problem]
    form = _form(comparison, problem)
    measured = comparison.measured(problem)
    found = []
    for row in summary.itertuples():
        cells = {
            "method": row.method,
            comparison.label(problem): form(row.mean, row.std),
            "95 % of mean": form.range(row.mean_low, row.mean_high),
            "median": form(row.median),
            "95 % of median": form.range(row.median_low, row.median_high),
        }
        if measured == "report":
            cells[about["reward"]] = form(row.value, row.value_std)
        if comparison.about["seeds"] > 1:
            cells["win/tie/loss"] = "/".join(map(str, _record(tests, row.method)))
            cells["p"] = "" if np.isnan(row.p_best) else f"{row.p_best:.2g}"
        found.append(cells)
    return found


def summary(comparison: Comparison) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        **{name: comparison.about[name] for name in ("methods", "problems", "budget", "seeds")},
        "summary": _plain(comparison.summary()),
        "tests": _plain(comparison.tests()),
        "ranks": comparison.ranks().to_dict(),
        "notes": notes(comparison),
        "comparison_dir": str(comparison.path),
    }


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON, in which what is not known is null."""
    known = table.astype(object).where(table.notna(), None)
    found: list[dict[str, Any]] = known.to_dict("records")
    return found


def notes(comparison: Comparison) -> list[str]:
    """What the statistics leave out, and why."""
    seeds, found = comparison.about["seeds"], []
    pairs = comb(len(comparison.methods), 2)
    needed = ceil(log2(pairs / LEVEL)) + 1  # the least p is 2^(1 - seeds), times the pairs
    if seeds == 1:
        found.append(f"one seed: no deviations, no intervals and no tests; take {needed} or more")
    elif seeds < needed:
        found.append(
            f"{seeds} seeds: with {pairs} {'pairs' if pairs > 1 else 'pair'} no p can be below "
            f"{min(1, pairs * 2.0 ** (1 - seeds)):.2g}; take {needed} or more"
        )
    for problem in comparison.problems:
        about = comparison.problem(problem)
        if comparison.measured(problem) == "value":
            found.append(f"{problem}: no {about['report']} is known; compared by {about['reward']}")
    return found


class _Form:
    """Numbers with as many decimals as their deviations call for."""

    def __init__(self, decimals: int) -> None:
        self.decimals = decimals

    def __call__(self, mean: float, deviation: float = np.nan) -> str:
        spread = "" if np.isnan(deviation) else f"±{deviation:.{self.decimals}f}"
        return "" if np.isnan(mean) else f"{mean:.{self.decimals}f}{spread}"

    def range(self, low: float, high: float) -> str:
        return "" if np.isnan(low) else f"{self(low)}–{self(high)}"


def _form(comparison: Comparison, problem: str) -> _Form:
    rows = comparison.summary()
    spread = rows[rows.problem == problem]["std"].max()
    return _Form(int(np.clip(1 - np.floor(np.log10(spread)), 0, 6)) if spread > 0 else 4)


def _record(tests: pd.DataFrame, method: str) -> tuple[int, int, int]:
    """Wins, ties and losses of a method against all others."""
    ahead, behind = tests[tests.method == method], tests[tests.other == method]
    return (
        int(ahead.wins.sum() + behind.losses.sum()),
        int(ahead.ties.sum() + behind.ties.sum()),
        int(ahead.losses.sum() + behind.wins.sum()),
    )


# ---- for a paper


def markdown(comparison: Comparison) -> str:
    """Methods by problems, in Markdown."""
    head, rows = _paper(comparison, in_markdown, "**{}**".format)
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{in_markdown(_caption(comparison))}\n"


def latex(comparison: Comparison) -> str:
    """The same for LaTeX, with booktabs."""
    head, rows = _paper(comparison, in_latex, r"\textbf{{{}}}".format)
    lines = "\n".join(f"{' & '.join(line)} \\\\" for line in rows)
    return (
        f"% {_caption(comparison)}\n\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}\n\\toprule\n"
        f"{' & '.join(head)} \\\\\n\\midrule\n{lines}\n\\bottomrule\n\\end{{tabular}}\n"
    )


def _paper(
    comparison: Comparison, escape: Callable[[str], str], bold: Callable[[str], str]
) -> tuple[list[str], list[list[str]]]:
    """The head and the rows; bold are the best and what no test tells from it."""
    summary, several = comparison.summary(), len(comparison.problems) > 1
    head = ["method", *map(escape, comparison.problems), *(["mean rank"] if several else [])]
    rows = []
    for method in comparison.methods:
        cells = [escape(method)]
        for problem in comparison.problems:
            row = summary[(summary.problem == problem) & (summary.method == method)].iloc[0]
            text = escape(_form(comparison, problem)(row["mean"], row["std"]))
            cells.append(bold(text) if row.best or row.p_best >= LEVEL else text)
        rows.append([*cells, *([f"{comparison.ranks()[method]:.2f}"] if several else [])])
    return head, rows


def _caption(comparison: Comparison) -> str:
    about = comparison.about
    limits = [
        f"{about[name]:g} {words}"
        for name, words in (("max_cost", "of cost"), ("max_seconds", "seconds"))
        if about[name] is not None
    ]
    budget = ", ".join([f"{about['budget']} trials", *limits])
    columns = {comparison.label(problem) for problem in comparison.problems}
    words = f"{', '.join(sorted(columns))} of what is selected, {budget}, {about['seeds']} seeds"
    if about["seeds"] == 1:
        return f"{words}."
    return (
        f"{words}: mean±standard deviation; bold: the best, and what Wilcoxon's signed-rank test "
        f"with Holm's correction does not tell from it at {LEVEL:.0%}."
    )
