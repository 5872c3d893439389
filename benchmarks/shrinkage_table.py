"""Table 4 of LISSNAS, for any problem with a table: how good are the spaces that shrinkers leave?

    python benchmarks/shrinkage_table.py --on nb201/cifar10 --size 350 --seeds 50

Every shrinker gets as many queries and the same predictor; it sees the reward, and its space is
judged by the report metric. Means over the seeds, with 95 % bootstrap intervals. `kept` is the
share of seeds whose space holds the best arch of all, up to isomorphism.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

import nasplug
from nasplug.problem import Problem, problem
from nasplug.quality import GOOD, bootstrap, costs, coverage, diversity, reports, shrink_index

METHODS = (
    "lissnas", "shrink-top", "shrink-random", "shrink-abs", "shrink-padnas", "shrink-nse",
)  # fmt: skip
COLUMNS = ("size", "mean", "max", "kept", "shrink_index", "diversity", "coverage", "seconds")
RESULTS = Path(__file__).parent / "results"


class Judge:
    """A problem whose every arch is known."""

    def __init__(self, on: str) -> None:
        self.problem: Problem = problem(on)
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
            "good": (known > self.threshold).mean(), "diversity": diversity(self.space, archs)[0],
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
            "diversity": diversity(self.space, self.space.from_index(index))[0],
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

    text, results = [], []
    with ProcessPoolExecutor(2) as pool:
        for on in options.on:
            whole = judge(on).whole
            for size in options.size:
                text.append(
                    f"\n### {on}, about {size} archs, {options.budget} queries, "
                    f"{options.seeds} seeds\n\nwhole space: {whole['size']:,} archs, "
                    f"mean {whole['mean']:.4g}, max {whole['max']:.4g}, "
                    f"diversity {whole['diversity']:.3f}\n\n"
                    f"| method | {' | '.join(COLUMNS)} |\n|{' --- |' * (len(COLUMNS) + 1)}"
                )
                print(text[-1], flush=True)
                for method in options.methods:
                    jobs = [
                        pool.submit(run, on, method, size, options.budget, seed)
                        for seed in range(options.seeds)
                    ]
                    rows = [job.result() for job in jobs]
                    columns = {name: np.array([row[name] for row in rows]) for name in COLUMNS}
                    text.append(f"| {method} | {' | '.join(map(cell, columns.values()))} |")
                    print(text[-1], flush=True)
                    results.append(
                        {"problem": on, "target": size, "method": method, "seeds": options.seeds}
                        | {name: round(float(c.mean()), 5) for name, c in columns.items()}
                    )
                RESULTS.mkdir(exist_ok=True)
                (RESULTS / f"{options.out}.md").write_text("\n".join(text).strip() + "\n")
                (RESULTS / f"{options.out}.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results))


def cell(values: np.ndarray) -> str:
    """A mean, and half of its interval's width where it varies."""
    digits = max(1, 4 - len(str(int(abs(values.mean())))))
    if np.ptp(values) == 0:
        return f"{values[0]:.{digits}f}"
    low, high = bootstrap(values)
    return f"{values.mean():.{digits}f} ±{(high - low) / 2:.{digits}f}"


if __name__ == "__main__":
    main()
