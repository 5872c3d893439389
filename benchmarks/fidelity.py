"""What early stopping is worth: methods with a fidelity against random search that trains every
arch in full, at equal trained epochs, on real trainings.

    python benchmarks/fidelity.py [--seeds 5] [--epochs 63] [--full 9] [--on nb201:C=8,N=1/digits]

The epochs that a trial was trained by itself count, so that what goes on from a checkpoint is
charged for the rest alone. After each third of the epochs: what would have been selected, its
validation and its test accuracy. Selection sees the former only. A line a search to stderr; the
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before numpy is imported

import numpy as np

import nasplug
from nasplug import Search, hookimpl

METHODS = ("random", "successive-halving", "hyperband")


class Spend:
    """Ends a search once so many epochs were trained."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    @hookimpl
    def update(self, search: Search) -> None:
        if np.nansum(search.trials.metrics["trained_epochs"]) >= self.epochs:
            search.stop("epochs spent")


def measure(method: str, on: str, seed: int, full: int, epochs: int) -> dict[str, list[float]]:
    """What is selected after each third of the epochs."""
    trials = nasplug.search(
        method, on, fidelity=(1, full), budget=1000, seed=seed, tracking=False, progress=False,
        plugins=[Spend(epochs)],
    ).search.trials  # fmt: skip
    spent = np.cumsum(np.nan_to_num(trials.metrics["trained_epochs"]))
    best = [int(trials.ranks[spent <= part * epochs / 3].argmax()) for part in (1, 2, 3)]
    full_ones = [int(((trials.fidelities == full) & (spent <= epochs)).sum())]
    return {
        "validation": trials.values[best].tolist(),
        "test": trials.reports[best].tolist(),
        "epochs of it": trials.fidelities[best].tolist(),
        "archs": [len(trials.space.unique(trials.archs[spent <= epochs]))],
        "in full": full_ones,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=63, help="trained in a search")
    parser.add_argument("--full", type=int, default=9, help="epochs of a full training")
    parser.add_argument("--on", default="nb201:C=8,N=1/digits")
    arguments = parser.parse_args()
    on, full, epochs = arguments.on, arguments.full, arguments.epochs
    found: dict[str, list[dict[str, list[float]]]] = {method: [] for method in METHODS}
    for seed in range(arguments.seeds):
        for method in METHODS:
            found[method].append(measure(method, on, seed, full, epochs))
            print(seed, method, json.dumps(found[method][-1]), file=sys.stderr, flush=True)
    summary = {
        method: {
            f"{name} {word}": np.round(number([run[name] for run in runs]), 2).tolist()
            for name in runs[0]
            for word, number in {
                "mean": lambda rows: np.mean(rows, axis=0),
                "std": lambda rows: np.std(rows, axis=0, ddof=1),
            }.items()
        }
        for method, runs in found.items()
    }
    about = {"on": on, "seeds": arguments.seeds, "epochs": epochs, "full": full}
    print(json.dumps({**about, "methods": summary}))


if __name__ == "__main__":
    main()
