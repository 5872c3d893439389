"""The picture of the README: the best reward so far against queries, mean over seeds, with 95 %
bootstrap intervals.

    NASPLUG_DATA=... python benchmarks/anytime.py [--seeds 50] [--on nb201/cifar100]

Writes benchmarks/results/anytime.png; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
from multiprocessing import get_context
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before numpy is imported

import numpy as np
from matplotlib.figure import Figure

import nasplug

BUDGET = 200
COLORS = {
    "random": "#9aa3ad", "reinforce": "#8e6bb0", "regularized-evolution": "#4a9d6f",
    "local-search": "#d9822b", "dsm": "#2f6db5",
}  # fmt: skip
BOOTSTRAP = 2000


def curve(task: tuple[str, str, int]) -> np.ndarray:
    """(method, problem, seed) -> (BUDGET,) the best reward so far."""
    method, on, seed = task
    result = nasplug.search(method, on, budget=BUDGET, seed=seed, tracking=False)
    return np.maximum.accumulate(result.search.trials.values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--on", default="nb201/cifar100")
    arguments = parser.parse_args()
    problem = nasplug.problem(arguments.on)
    top = float(problem.score(problem.space.all()).values.max())

    figure = Figure((8, 4.5))
    ax = figure.add_subplot()
    queries = np.arange(1, BUDGET + 1)
    final = {}
    with get_context("spawn").Pool(2) as pool:
        for method, color in COLORS.items():
            tasks = [(method, arguments.on, seed) for seed in range(arguments.seeds)]
            regrets = top - np.array(pool.map(curve, tasks, chunksize=5))
            rows = np.random.default_rng(0).integers(len(regrets), size=(BOOTSTRAP, len(regrets)))
            low, high = np.percentile(regrets[rows].mean(1), [2.5, 97.5], axis=0)
            ax.plot(queries, regrets.mean(0), color=color, lw=2, label=method)
            ax.fill_between(queries, low, high, color=color, alpha=0.15, lw=0)
            final[method] = round(float(regrets[:, -1].mean()), 4)
            print(f"{method:22} regret after {BUDGET} queries {final[method]:.3f}", flush=True)
    ax.set(
        xlabel="architectures scored", xlim=(4, BUDGET), yscale="log",
        ylabel=f"regret in {problem.evaluator.reward} (points)",
    )  # fmt: skip
    ax.set_title(
        f"{arguments.on}: how far from the best, mean of {arguments.seeds} seeds",
        loc="left", weight="bold",
    )  # fmt: skip
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.2, which="both")
    ax.legend(frameon=False)
    figure.savefig(Path(__file__).parent / "results" / "anytime.png", dpi=110, bbox_inches="tight")
    print(json.dumps({"problem": arguments.on, "seeds": arguments.seeds, "regret": final}))


if __name__ == "__main__":
    main()
