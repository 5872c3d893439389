"""Does it help to begin with archs that a zero-cost proxy finds good?

    NASPLUG_DATA=... python benchmarks/warm_starts.py [METHOD ...] [--seeds 100]

On NAS-Bench-201, CIFAR-10, with the validation accuracy after 12 epochs as the reward: every method
begins as it does by itself (cold), with ten random archs (the control: ten at once are already more
than the one that local search begins with), or, as ``init="proxy:NAME"`` does, with the ten best by
a proxy of a hundred random archs. Those are drawn from 2,000 random cells whose proxies are
measured first (two minutes of one core, kept in runs/), in networks of C=8, N=1 and images of
16x16, where naswot ranks as well as in those of the benchmark.

For each budget: the best reward, the test accuracy after 200 epochs of the arch that has it, and
by how much the reward is above that of the cold search with the same seed; means over the seeds
with 95 % bootstrap intervals. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import nasplug
from nasplug.kernel.registry import registry
from nasplug.run.init import FIRST, POOL, Init

BUDGETS = (50, 100, 200)
METHODS = ("random", "regularized-evolution", "local-search", "reinforce", "dsm", "lissnas")
PROXIES = ("params", "naswot", "synflow")
STARTS = ("cold", "random", *PROXIES)
CELLS = Path("runs/proxies_small.npz")
MEASURE = (
    "--archs", "2000", "--C", "8", "--N", "1", "--side", "16", "--no-report", "--out", str(CELLS),
)  # fmt: skip
RESAMPLES = 10_000

Floats = npt.NDArray[np.float64]


def measured(
    space: nasplug.Space, proxies: Sequence[str]
) -> tuple[nasplug.Archs, dict[str, Floats]]:
    """(n, d) distinct cells and {proxy: (n,) values}, measured where that is not done yet."""
    script = Path(__file__).with_name("proxies.py")
    subprocess.run([sys.executable, script, *MEASURE, "--proxies", *proxies], check=True)
    with np.load(CELLS) as kept:
        known = np.flatnonzero(np.isfinite(kept[f"seconds/{proxies[0]}"]))
        values = {name: kept[f"values/{name}"][known] for name in proxies}
    archs = space.from_index(known)
    rows = np.unique(space.classes(archs), return_index=True)[1]
    return archs[rows], {
        name: np.where(np.isfinite(column), column, -np.inf)[rows]
        for name, column in values.items()
    }


def first_archs(
    start: str, archs: nasplug.Archs, values: dict[str, Floats], seed: int
) -> nasplug.Archs:
    """What a search begins with; those of all starts come from the same pool."""
    rows = np.random.default_rng((seed, POOL)).choice(len(archs), POOL, replace=False)
    if start in values:
        rows = rows[np.argsort(-values[start][rows], kind="stable")]
    return archs[rows[:FIRST]]


def curve(
    problem: nasplug.Problem, method: str, first: nasplug.Archs | None, seed: int
) -> list[tuple[float, float]]:
    """At each budget the best reward, and what is reported of it."""
    found = []
    for budget in BUDGETS:
        # Only lissnas asks how much there is to spend: the others' shorter searches are beginnings.
        if method == "lissnas" or budget == BUDGETS[0]:
            search = nasplug.Search(
                problem, registry().get("method", method)(), method, seed=seed,
                budget=budget if method == "lissnas" else BUDGETS[-1],
                plugins=[] if first is None else [Init(first)],
            )  # fmt: skip
            search.run()
        best = int(search.trials.scores[:budget].argmax())
        found.append((float(search.trials.values[best]), float(search.trials.reports[best])))
    return found


def interval(values: Floats) -> list[float]:
    """95 % bootstrap interval of the mean."""
    rows = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    return [round(float(x), 3) for x in np.percentile(values[rows].mean(1), [2.5, 97.5])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", metavar="METHOD", default=METHODS)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    options = parser.parse_args()
    problem = nasplug.problem("nb201/cifar10")
    archs, values = measured(problem.space, PROXIES)
    result: dict[str, Any] = {
        "seeds": options.seeds, "first": FIRST, "pool": POOL, "budgets": BUDGETS, "methods": {},
    }  # fmt: skip
    print(f"{'method':22} {'start':8} {'budget':>6} {'reward':>7} {'test':>7}  above cold")
    for method in options.methods:
        rows = result["methods"][method] = {}
        curves: dict[str, Floats] = {}  # (seeds, budgets, reward and report)
        for start in ("cold", *(start for start in options.starts if start != "cold")):
            curves[start] = np.array([
                curve(
                    problem, method,
                    None if start == "cold" else first_archs(start, archs, values, seed), seed,
                )
                for seed in range(options.seeds)
            ])  # fmt: skip
            rows[start] = []
            for i, budget in enumerate(BUDGETS):
                reward, report = curves[start][:, i].T
                above = reward - curves["cold"][:, i, 0]
                row = {
                    "budget": budget, "reward": round(float(reward.mean()), 3),
                    "interval": interval(reward), "test": round(float(report.mean()), 3),
                    "above_cold": round(float(above.mean()), 3),
                    "above_cold_interval": interval(above),
                }  # fmt: skip
                rows[start].append(row)
                print(
                    f"{method:22} {start:8} {budget:6} {row['reward']:7.2f} {row['test']:7.2f} "
                    f"{row['above_cold']:+.2f} {row['above_cold_interval']}",
                    flush=True,
                )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
