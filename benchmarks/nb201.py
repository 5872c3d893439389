"""Quality on NAS-Bench-201: how good an arch each method finds with 200 queries.

    NASPLUG_DATA=... python benchmarks/nb201.py [METHOD ...] [--seeds 100] [--data cifar10 cifar100]
        [--out benchmarks/results/nb201_dsm.json]

A METHOD is any that is installed, or of a file, such as ./hill_climber.py:HillClimber.
The reward is the validation accuracy after 12 epochs; reported is the test accuracy after 200 of
the arch with the best reward. ``dsm-paper`` is DSM-NAS exactly as in the paper, ``dsm-authors``
with the settings of the authors' code, which does not charge the first K archs; ``dsm+`` is
DSM-NAS as shipped that starts from the answer of the search with the same seed on the other data
set, and is compared with ``dsm`` seed by seed. Intervals are 95 % bootstrap intervals of the mean.
What each method has found is added to the file --out. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

import nasplug
from nasplug.kernel.registry import registry
from nasplug.run.init import Init

BUDGET = 200
PAPER = {"K": 4, "M": 4, "samples": 1, "unseen": False, "repeats": "count"}
AUTHORS = {**PAPER, "K": 3, "decay": 0.9, "entropy": 5e-4, "budget": BUDGET + 3}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "dsm": ("dsm", {}),
    "dsm-paper": ("dsm", PAPER),
    "dsm-authors": ("dsm", AUTHORS),
    "dsm+": ("dsm", {}),
    "random": ("random", {}),
    "regularized-evolution": ("regularized-evolution", {}),
    "local-search": ("local-search", {}),
    "reinforce": ("reinforce", {}),
}
BOOTSTRAP = 10_000
opened: dict[str, nasplug.Problem] = {}  # per process


def run(task: tuple[str, str, int]) -> tuple[float, float, float]:
    """(label, data, seed) -> best reward, its report, seconds."""
    label, data, seed = task
    start = time.perf_counter()
    method, options = METHODS.get(label, (label, {}))
    if label == "dsm+":
        source = {"cifar10": "cifar100", "cifar100": "cifar10"}[data]
        options = {**options, "init": search(method, source, seed, options).archs[: PAPER["K"]]}
    result = search(method, data, seed, options)
    assert result.report is not None
    return result.best.value, result.report, time.perf_counter() - start


def search(method: str, data: str, seed: int, options: dict[str, Any]) -> nasplug.Selection:
    if data not in opened:
        opened[data] = nasplug.problem(f"nb201/{data}")
    options = dict(options)
    repeats, budget = options.pop("repeats", "free"), options.pop("budget", BUDGET)
    first = [Init(options.pop("init"))] if "init" in options else []
    made = registry().get("method", method)(**options)
    return nasplug.Search(
        opened[data], made, method, budget=budget, seed=seed, repeats=repeats, plugins=first
    ).run()


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    rows = np.random.default_rng(0).integers(len(values), size=(BOOTSTRAP, len(values)))
    low, high = np.percentile(values[rows].mean(1), [2.5, 97.5])
    return float(low), float(high)


def ideal(data: str) -> tuple[float, list[float], float]:
    """Best reward there is, what the archs that have it report, and the best report there is."""
    problem = nasplug.problem(f"nb201/{data}")
    trials = problem.score(problem.space.all())
    best = trials.values.max()
    reports = sorted(trials.reports[trials.values == best].tolist())
    return float(best), reports, float(trials.reports.max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", default=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--data", nargs="+", default=["cifar10", "cifar100"])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    try:
        for label in set(arguments.methods) - set(METHODS):
            registry().get("method", label)
    except nasplug.NasplugError as error:
        parser.error(str(error))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # for the processes that are spawned
    summary: dict[str, Any] = {"queries": BUDGET}
    if arguments.out and arguments.out.exists():
        summary = json.loads(arguments.out.read_text())
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for data in arguments.data:
            best, reports, ceiling = ideal(data)
            print(
                f"\nnb201/{data}: the best reward, {best:.2f}, reports "
                f"{' or '.join(f'{report:.2f}' for report in reports)}; "
                f"the best report is {ceiling:.2f}"
            )
            print(f"{'':22} {'report':>13}  {'95 % of mean':>14}  {'best reward':>13}  seconds")
            table = summary.setdefault(data, {"ideal": {"reward": best, "reports": reports}})
            found: dict[str, np.ndarray] = {}
            for label in arguments.methods:
                tasks = [(label, data, seed) for seed in range(arguments.seeds)]
                found[label] = np.array(pool.map(run, tasks, chunksize=5))
                rewards, scores, seconds = found[label].T
                low, high = interval(scores)
                print(
                    f"{label:22} {scores.mean():6.2f}±{scores.std():6.3f}  {low:6.2f}–{high:6.2f}"
                    f"   {rewards.mean():6.3f}±{rewards.std():5.3f}  {np.median(seconds):6.2f}",
                    flush=True,
                )
                table[label] = {
                    "seeds": arguments.seeds,
                    "report": [scores.mean(), scores.std()], "interval": [low, high],
                    "reward": [rewards.mean(), rewards.std()], "seconds": np.median(seconds),
                }  # fmt: skip
                keep(summary, arguments.out)
            if {"dsm", "dsm+"} <= set(found):
                gains = (found["dsm+"] - found["dsm"])[:, :2]
                table["dsm+ - dsm"] = {
                    "reward": [gains[:, 0].mean(), *interval(gains[:, 0])],
                    "report": [gains[:, 1].mean(), *interval(gains[:, 1])],
                }
                for name, (mean, low, high) in table["dsm+ - dsm"].items():
                    print(f"dsm+ over dsm, paired: {name} {mean:+.3f} ({low:+.3f} to {high:+.3f})")
                keep(summary, arguments.out)
    print(json.dumps(rounded(summary)))


def keep(summary: dict[str, Any], file: Path | None) -> None:
    if file:
        file.write_text(json.dumps(rounded(summary), indent=1) + "\n")


def rounded(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: rounded(value) for key, value in node.items()}
    if isinstance(node, list):
        return [rounded(value) for value in node]
    return round(float(node), 4) if isinstance(node, float) else node


if __name__ == "__main__":
    main()
