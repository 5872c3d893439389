"""Table 4 of LISSNAS, for any problem with a table: how good are the spaces that shrinkers leave?

    python benchmarks/shrinkage_table.py --on nb201/cifar10 --size 350 --seeds 50

Every shrinker gets as many queries and the same predictor; it sees the reward, and its space is
judged by the report metric. Means over the seeds, with 95 % bootstrap intervals. `kept` is the
share of seeds whose space holds the best arch of all, up to isomorphism. Results are added to
those of OUT.json; last line: all of them as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import nasplug
from nasplug.analysis.quality import (
    GOOD,
    bootstrap,
    costs,
    coverage,
    diversity,
    reports,
    shrink_index,
)

METHODS = (
    "lissnas", "shrink-top", "shrink-random", "shrink-abs", "shrink-padnas", "shrink-nse",
)  # fmt: skip
COLUMNS = ("size", "mean", "max", "kept", "shrink_index", "mean_distance", "coverage", "seconds")
KEY = ("problem", "target", "queries", "method")
RESULTS = Path(__file__).parent / "results"


class Judge:
    """A problem whose every arch is known."""

    def __init__(self, on: str) -> None:
        self.problem = nasplug.problem(on)
        self.space = self.problem.space
        archs = self.space.from_index(np.arange(self.space.size))
        self.classes = self.space.index(self.space.canonical(archs))
        self.values = reports(self.problem)(archs)
        cost = costs(self.problem)
        assert cost, f"{on} states neither FLOPs nor params"
        self.costs = cost[1](archs)
        self.best = self.classes[np.nanargmax(self.values)]
        known = self.values[np.isfinite(self.values)]
        self.threshold = np.quantile(known, GOOD)
        self.whole = {
            "size": len(known), "mean": known.mean(), "max": known.max(),
            "good": (known > self.threshold).mean(),
            "mean_distance": diversity(self.space, archs)[0],
        }  # fmt: skip

    def row(self, subspace: nasplug.Subspace) -> dict[str, float]:
        """The quality of a space, all of which is looked up."""
        archs = self.space.all() if not isinstance(subspace, nasplug.ArchSet) else subspace.archs
        index = self.space.index(archs[subspace.contains(archs)])
        index = index[np.isfinite(self.values[index])]
        good = (self.values[index] > self.threshold).mean()
        known = np.isfinite(self.costs)
        return {
            "size": len(index),
            "mean": self.values[index].mean(),
            "max": self.values[index].max(),
            "kept": float(self.best in self.classes[index]),
            "shrink_index": shrink_index(good, self.whole["good"]),
            "mean_distance": diversity(self.space, self.space.from_index(index))[0],
            "coverage": coverage(self.costs[index], self.costs[known]),
        }


judge = cache(Judge)


def run(on: str, method: str, size: int, budget: int, seed: int) -> dict[str, float]:
    """One seed of one shrinker."""
    start = time.perf_counter()
    result = nasplug.search(
        method, on, budget=budget, seed=seed, size=size, tracking=False, progress=False
    )
    seconds = time.perf_counter() - start
    return {**judge(on).row(result.subspace), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", nargs="+", default=["nb201/cifar10", "nb201/cifar100"])
    parser.add_argument("--size", nargs="+", type=int, default=[350, 700])
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--out", default="shrinkage", help="results/OUT.md and .json")
    options = parser.parse_args()

    file = RESULTS / f"{options.out}.json"
    results = json.loads(file.read_text()) if file.exists() else []
    with ProcessPoolExecutor(2) as pool:
        for on in options.on:
            for size in options.size:
                for method in options.methods:
                    jobs = [
                        pool.submit(run, on, method, size, options.budget, seed)
                        for seed in range(options.seeds)
                    ]
                    columns = [job.result() for job in jobs]
                    row = {"problem": on, "target": size, "queries": options.budget,
                           "method": method, "seeds": options.seeds}  # fmt: skip
                    row |= {name: summary([c[name] for c in columns]) for name in COLUMNS}
                    results = [r for r in results if any(r[k] != row[k] for k in KEY)] + [row]
                    print(line(row), flush=True)
                    file.write_text(json.dumps(results, indent=1) + "\n")
                    file.with_suffix(".md").write_text(table(results))
    print(json.dumps(results))


def summary(values: list[float]) -> dict[str, float]:
    """The mean over the seeds, and half of its interval's width."""
    low, high = bootstrap(np.array(values)) if np.ptp(values) else (0.0, 0.0)
    return {"mean": round(float(np.mean(values)), 5), "half": round((high - low) / 2, 5)}


def place(row: dict[str, Any]) -> int:
    """In the table: other shrinkers come last."""
    name = row["method"].split()[0]
    return METHODS.index(name) if name in METHODS else len(METHODS)


def table(results: list[dict[str, Any]]) -> str:
    """All results, a section per problem and size."""
    sections: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for row in results:
        sections.setdefault((row["problem"], row["target"], row["queries"]), []).append(row)
    text = []
    for (on, size, queries), rows in sorted(sections.items()):
        whole = judge(on).whole
        text += [
            f"\n### {on}, about {size} archs, {queries} queries, {rows[0]['seeds']} seeds\n",
            f"whole space: {whole['size']:,} archs, mean {whole['mean']:.4g}, "
            f"max {whole['max']:.4g}, mean distance {whole['mean_distance']:.3f}\n",
            f"| method | {' | '.join(COLUMNS)} |",
            f"|{' --- |' * (len(COLUMNS) + 1)}",
            *map(line, sorted(rows, key=place)),
        ]
    return "\n".join(text).strip() + "\n"


def line(row: dict[str, Any]) -> str:
    """A line of the table."""
    cells = []
    for name in COLUMNS:
        mean, half = row[name]["mean"], row[name]["half"]
        digits = max(1, 4 - len(str(int(abs(mean)))))
        cells.append(f"{mean:.{digits}f}" + (f" ±{half:.{digits}f}" if half else ""))
    return f"| {row['method']} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
