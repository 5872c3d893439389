"""Writes the tables of READMEs whose numbers are kept in benchmarks/results.

    python benchmarks/tables.py            writes them
    python benchmarks/tables.py --check    names those that differ from what is kept, exit code 1

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``; its function here, of the same
name, reads what is kept and yields its rows, the head first. Words and the papers' numbers are
here; what was measured comes from the files alone.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"(<!-- table (\w+) -->\n\n).*?(\n<!-- end -->)", re.DOTALL)

Rows = Iterator[Sequence[str]]

DATA = ("cifar10", "cifar100")
SHRINKERS = {  # of shrinkage_nb201.json, in the order of the table
    "lissnas": "**lissnas**", "lissnas (rounds=6, 6 draws)": "six rounds, 60 neighbors",
    "shrink-top": "plain top-N (control)", "shrink-random": "random shrink",
    "shrink-abs": "ABS-like (729 archs)", "shrink-padnas": "PADNAS-like", "shrink-nse": "NSE-like",
}  # fmt: skip
MEASURES = {  # digits
    "mean": 2, "kept": 2, "shrink_index": 3, "mean_distance": 3, "coverage": 3,
}  # fmt: skip


def kept(name: str) -> Any:
    """What a benchmark has printed or written."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def nb201_baselines() -> Rows:
    """The baselines': what the arch with the best reward reports, beside the reference numbers."""
    found = kept("nb201_baselines")
    yield "", "CIFAR-10", "reference", "CIFAR-100", "reference"
    for method, *reference in (
        ("random", "93.90±0.25", "71.77±0.87"),
        ("regularized-evolution", "94.14±0.27", "72.51±0.66"),
        ("local-search", "94.22±0.25", "72.17±0.85"),
        ("reinforce", "", ""),
    ):
        ours = ["{:.2f}±{:.2f}".format(*found[data][method]["report"]) for data in DATA]
        yield f"`{method}`", ours[0], reference[0], ours[1], reference[1]


def shrunk_350() -> Rows:
    """LISSNAS's: spaces of about 350 archs. Of the whole space it is known without a search."""
    yield (
        "nb201, about 350 archs", "mean C10", "kept", "shrink index", "mean distance",
        "FLOPs coverage", "mean C100", "kept", "mean distance", "coverage",
    )  # fmt: skip
    yield "whole space", "87.06", "", "", "0.800", "", "61.41", "", "0.800", ""
    yield from _shrunk(350, [*MEASURES], SHRINKERS, bold=("mean cifar10", "shrink_index cifar10"))


def shrunk_700() -> Rows:
    """The same of about 700."""
    yield (
        "nb201, about 700 archs", "mean C10", "kept", "mean distance", "coverage", "mean C100",
        "kept", "mean distance", "coverage",
    )  # fmt: skip
    measures = [name for name in MEASURES if name != "shrink_index"]
    yield from _shrunk(
        700, measures, [*SHRINKERS][:3], bold=("coverage cifar10", "coverage cifar100")
    )


def _shrunk(size: int, on10: Sequence[str], methods: Sequence[str], bold: Sequence[str]) -> Rows:
    found = {
        (one["problem"], one["method"]): one
        for one in kept("shrinkage_nb201")
        if one["target"] == size
    }
    on100 = [name for name in on10 if name != "shrink_index"]
    for method in methods:
        cells = [SHRINKERS[method]]
        for data, measures in zip(DATA, (on10, on100), strict=True):
            for name in measures:
                cell = f"{found[f'nb201/{data}', method][name]['mean']:.{MEASURES[name]}f}"
                marked = method == "lissnas" and f"{name} {data}" in bold
                cells.append(f"**{cell}**" if marked else cell)
        yield cells


def ddsas_steps() -> Rows:
    """DDSAS's: a step in a subspace of L operations."""
    found = kept("supernet_speed")
    memory, seconds = found["memory_gb"], found["seconds"]
    yield "L", "seconds", "of plain", "of L=112", "process, GB", "beyond importing torch, GB"
    for L in ("28", "112"):
        share = seconds[L] / seconds["112"]
        yield (
            L, f"{seconds[L]:.3f}", f"{found['of_plain'][L]:.2f}",
            "1" if share == 1 else f"{share:.2f}", f"{memory[L]:.2f}",
            f"{memory[L] - memory['0']:.2f}",
        )  # fmt: skip


def ddsas_nb201() -> Rows:
    """DDSAS's: tabulated accuracy of the cells that three searches ended with."""
    found = kept("nb201_oneshot")["ddsas"]
    last = [curve[-1] for curve in found["cifar10"]]
    yield "", "CIFAR-10", "CIFAR-100"
    yield (
        f"here ({', '.join(f'{x:.2f}' for x in last)})", _population(last),
        _population(found["cifar100"]),
    )  # fmt: skip
    yield ("the paper (C=16, N=5, 19,500 steps of batch 64, a GPU)", "93.73 ± 0.32", "71.53 ± 1.02")


def paths() -> Rows:
    """What path searches find in a hand-made space and in the learned ones."""
    found = kept("autospace")
    yield "", "hand-made: MAdds, test accuracy", "learned"
    for words, key in (
        ("`proxyless`, gradient", "G"), ("`proxyless`, reinforce", "RL"), ("`spos`", "RS"),
    ):  # fmt: skip
        cells = [words]
        for space in ("manual", "learned"):
            madds, _, test = zip(*found[f"search/{key}"][space], strict=True)
            cells.append(f"{statistics.mean(madds) / 1e6:.3f}M, {_population(test)}")
        yield cells


def warm_starts() -> Rows:
    """The best reward after 50 and 200 queries, by what was tried first."""
    found = kept("warm_starts")["methods"]
    first = {"cold": "cold", "random": "ten random", "params": "`params`", "naswot": "`naswot`",
             "synflow": "`synflow`"}  # fmt: skip
    yield "", *first.values()
    for method, starts in found.items():
        cells = []
        for start in first:
            rewards = {one["budget"]: one["reward"] for one in starts[start]}
            cells.append(f"{rewards[50]:.2f}, {rewards[200]:.2f}")
        yield f"`{method}`", *cells


TABLES: dict[str, Callable[[], Rows]] = {
    table.__name__: table
    for table in (
        nb201_baselines, shrunk_350, shrunk_700, ddsas_steps, ddsas_nb201, paths, warm_starts
    )
}  # fmt: skip


def _population(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {statistics.pstdev(values):.2f}"


def markdown(rows: Rows) -> str:
    head, *body = ["| " + "".join(f"{cell} | ".lstrip() for cell in cells) for cells in rows]
    rule = "| " + "--- | " * (head.count("|") - 1)
    return "\n".join(line.rstrip() for line in (head, rule, *body)) + "\n"


def rewritten(text: str) -> str:
    """A page with its tables made anew."""
    return MARK.sub(lambda mark: f"{mark[1]}{markdown(TABLES[mark[2]]())}{mark[3]}", text)


def main() -> None:
    pages = [ROOT / "README.md", *sorted(ROOT.glob("plugins/*/README.md"))]
    made = {page: rewritten(page.read_text()) for page in pages}
    differ = {page: new for page, new in made.items() if new != page.read_text()}
    for page, new in differ.items():
        print(page.relative_to(ROOT))
        if "--check" not in sys.argv:
            page.write_text(new)
    sys.exit(bool(differ) and "--check" in sys.argv)


if __name__ == "__main__":
    main()
