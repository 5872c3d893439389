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
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"(<!-- table (\w+) -->\n\n).*?(\n<!-- end -->)", re.DOTALL)

Rows = Iterator[Sequence[str]]

DATA = ("cifar10", "cifar100")
BASELINES = ("random", "regularized-evolution", "local-search")
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


def nb201_methods() -> Rows:
    """The root README's: what is reported of the arch with the best reward, 200 queries."""
    dsm, baselines, peers = kept("nb201_dsm"), kept("nb201_baselines"), kept("optuna_samplers")
    yield "method", "distribution", "CIFAR-10: paper", "ours", "CIFAR-100: paper", "ours"
    for words, source, label, home, *paper in (
        ("`dsm` (DSM-NAS), as in the paper", dsm, "dsm-paper", "`nasplug-dsm`", "94.23±0.22",
         "72.76±0.80"),
        ("`dsm`, with the settings of the authors' code", dsm, "dsm-authors", "", "", ""),
        ("`dsm`, as shipped", dsm, "dsm", "", "", ""),
        ("`dsm` with `init` (DSM-NAS+)", dsm, "dsm+", "", "", "73.12±0.61"),
        ("`random`", baselines, "random", "`nasplug-baselines`", "93.88±0.27", "71.54±1.04"),
        ("`regularized-evolution`", baselines, "regularized-evolution", "", "", ""),
        ("`local-search`", baselines, "local-search", "", "", ""),
        ("`reinforce`", baselines, "reinforce", "", "93.85±0.37", "71.71±1.09"),
        ("`bananas`", baselines, "bananas", "", "", ""),
    ):  # fmt: skip
        found = [source[data][label] for data in DATA]
        ours = [_reported(one) for one in found]
        yield f"{words}, {_seeds(found)}", home, paper[0], ours[0], paper[1], ours[1]
    tpe = [one for one in peers if one["method"] == "optuna-tpe"]
    ours = ["{:.2f}±{:.2f}".format(float(one["mean"]), float(one["std"])) for one in tpe]
    words = f"`optuna-tpe`, {tpe[0]['seeds']} seeds"
    yield words, "`nasplug-optuna`", "", ours[0], "", ours[1]
    best = [", ".join(f"{x:.2f}" for x in dsm[data]["ideal"]["reports"]) for data in DATA]
    yield "*the archs with the best reward*", "", "", f"*{best[0]}*", "", f"*{best[1]}*"


def nb201_dsm() -> Rows:
    """DSM-NAS's: with the best rewards."""
    found, baselines = kept("nb201_dsm"), kept("nb201_baselines")
    yield "", "CIFAR-10 test", "best reward", "CIFAR-100 test", "best reward"
    yield "paper: DSM-NAS", "94.23±0.22", "", "72.76±0.80", ""
    for words, source, label in (
        ("`dsm`, exactly as in the paper", found, "dsm-paper"),
        ("`dsm`, with the settings of the authors' code", found, "dsm-authors"),
        ("`dsm`, as shipped", found, "dsm"),
        ("paper: DSM-NAS+ from CIFAR-10", None, ""),
        ("`dsm` with `init` from the other data set", found, "dsm+"),
        *((f"`{name}`", baselines, name) for name in BASELINES),
    ):
        if source is None:
            yield words, "", "", "73.12±0.61", ""
            continue
        rows = [source[data][label] for data in DATA]
        cells = [_reported(row, name) for row in rows for name in ("report", "reward")]
        yield f"{words}, {_seeds(rows)}", *cells
    ideal = [found[data]["ideal"] for data in DATA]
    cells = [", ".join(f"{x:.2f}" for x in one["reports"]) for one in ideal]
    yield (
        "the archs with the best reward", cells[0], f"{ideal[0]['reward']:.2f}", cells[1],
        f"{ideal[1]['reward']:.2f}",
    )  # fmt: skip


def _seeds(rows: Sequence[dict[str, Any]]) -> str:
    """As many as there are on each data set."""
    return f"{' and '.join(dict.fromkeys(str(row['seeds']) for row in rows))} seeds"


def _reported(row: dict[str, Any], name: str = "report") -> str:
    return "{:.2f}±{:.2f}".format(*row[name])


def optuna_samplers() -> Rows:
    """Optuna's: p against the first, by Wilcoxon's test with Holm's correction."""
    found = {(one["problem"], one["method"]): one for one in kept("optuna_samplers")}
    yield "", "CIFAR-10", "p", "CIFAR-100", "p"
    for method in ("optuna-tpe", "dsm", "optuna-cmaes", "optuna-nsga2", "optuna-random"):
        cells = [f"`{method}`"]
        for data in DATA:
            one = found[f"nb201/{data}", method]
            p = f"{float(one['p_best']):.2g}" if one["p_best"] else ""
            cells += [f"{float(one['mean']):.2f}±{float(one['std']):.2f}", p]
        yield cells


def ostr_criteria() -> Rows:
    """OStr-DARTS's: the cells selected last, and the rank correlation of each criterion."""
    found = kept("nb201_oneshot")
    yield "criterion", "CIFAR-10", "CIFAR-100", "Spearman", "the paper"
    for name, paper in (
        ("strength", "94.36 / 73.51"), ("strength*", "94.02 / 73.09"), ("naive", "93.86 / 71.88"),
        ("magnitude", "54.30 / 15.61"),
    ):  # fmt: skip
        one = found[name]
        last = ", ".join(f"{run[-1]:.2f}" for run in one["cifar10"])
        other = ", ".join(f"{x:.2f}" for x in one["cifar100"])
        yield name, last, other, f"{one['spearman'][0]:.2f}", paper


def oneshot() -> Rows:
    """The root README's, of methods that train one supernet of NB201 cells."""
    found = kept("nb201_oneshot")
    yield "method", "paper", "ours", "each seed"
    for words, name, paper in (
        ("`ostr-darts` (strength)", "strength", "94.36 / 73.51"),
        ("its supernet, by magnitude (DARTS)", "magnitude", "54.30 / 15.61"),
    ):
        last = [run[-1] for run in found[name]["cifar10"]]
        ours = f"{_population(last)} / {_population(found[name]['cifar100'])}"
        yield words, paper, ours, ", ".join(f"{x:.2f}" for x in last)


def autospace() -> Rows:
    """The root README's: networks of equal MAdds from three spaces, trained alike."""
    found = kept("autospace")
    seeds = found["seeds"]
    yield (
        f"{seeds} seed{'s' * (seeds > 1)}, networks of", "MAdds", "test accuracy",
        "the paper, on ImageNet",
    )  # fmt: skip
    for words, space, paper in (
        ("the final space", "union", "75.3"), ("its learned cells alone", "learned", ""),
        ("the hand-made space", "manual", "74.1"), ("the authors' cells", "released", ""),
    ):  # fmt: skip
        networks = chain.from_iterable(found[f"sample/{space}"])
        madds, _, test = map(statistics.fmean, zip(*networks, strict=True))
        yield words, f"{madds / 1e6:.3f}M", f"{test:.2f}", paper
    for words, space, paper in (("final", "union", "*1.2*"), ("learned", "learned", "")):
        gain, (low, high) = found[f"sample/{space} - manual"]
        yield f"*{words} - hand-made*", "", f"*{gain:.2f} ({low:.2f} to {high:.2f})*", paper


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
    """DDSAS's: tabulated accuracy of the cells that searches ended with."""
    found = kept("nb201_oneshot")["saliency"]
    last = [curve[-1] for curve in found["cifar10"]]
    yield "", "CIFAR-10", "CIFAR-100"
    yield (
        "here", ", ".join(f"{x:.2f}" for x in last),
        ", ".join(f"{x:.2f}" for x in found["cifar100"]),
    )  # fmt: skip
    yield ("the paper (C=16, 32x32, 50 epochs)", "93.73 ± 0.32", "71.53 ± 1.02")


def paths() -> Rows:
    """What path searches find in a hand-made space and in the learned ones, as they were before."""
    found = kept("autospace_block")
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
        nb201_methods, nb201_dsm, optuna_samplers, ostr_criteria, oneshot, autospace,
        nb201_baselines, shrunk_350, shrunk_700, ddsas_steps, ddsas_nb201, paths, warm_starts,
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
