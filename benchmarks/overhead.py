"""What the framework costs per trial: random search on nb201, beside Optuna in the same run.

    NASPLUG_DATA=... python benchmarks/overhead.py [--quick]

Every trial is a table lookup, so all the time is overhead. Rates are the best of a few rounds:
other work on the machine only ever slows them down, and where the search is all that runs, the
rate per second of CPU stands beside. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nasplug

PROBLEM = "nb201/cifar10"
ROUNDS = 3
BATCH = 5_000
TARGETS = {
    "batches": 200_000, "one at a time": 10_000, "journal and MLflow: search": 2_000,
    "journal and MLflow: until all is there": 2_000,
}  # fmt: skip

RSS = """
import nasplug, sys
nasplug.search("random", on="nb201/cifar10", budget=1000, tracking=False, out=False)
assert "torch" not in sys.modules
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def best(name: str, run: Callable[[], int]) -> dict[str, float]:
    """The best rates of some rounds of a function that returns how many trials it ran."""
    walls, cpus = [], []
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), time.process_time()
        trials = run()
        walls.append(trials / (time.perf_counter() - wall))
        cpus.append(trials / (time.process_time() - cpu))
    return {name: max(walls), f"{name}, per CPU second": max(cpus)}


def search(trials: int, batch: int = 1, **options: Any) -> int:
    options = {"tracking": False, "out": False} | options
    nasplug.search(
        "random", on=PROBLEM, budget=trials, batch=batch, repeats="count", progress=False, **options
    )
    return trials


def journaled(trials: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return search(trials, out=Path(folder) / "run")


def tracked_rates(trials: int) -> dict[str, float]:
    """One at a time with journal and MLflow, in a store that exists: the search's rate and the
    rate until everything is in MLflow; the seconds of a first run, store and imports included."""
    from nasplug import tracking

    start = time.perf_counter()
    search(10, tracking=True, out=True)
    sent = tracking.wait(120)
    first = time.perf_counter() - start
    start = time.perf_counter()
    search(trials, tracking=True, out=True)
    searched = time.perf_counter() - start
    sent = sent and tracking.wait(300)
    total = time.perf_counter() - start
    assert sent, "the local store did not take the trials"
    return {
        "journal and MLflow: search": trials / searched,
        "journal and MLflow: until all is there": trials / total,
        "journal and MLflow: seconds of a first tiny run": first,
    }


def optuna_search(trials: int, storage: str | None = None) -> int:
    """The same search by Optuna's random sampler."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem = nasplug.problem(PROBLEM)
    space, rewards = problem.space, problem.evaluator._rewards

    def objective(trial: Any) -> float:
        choices = [
            trial.suggest_categorical(name, options) for name, options in space.decisions.items()
        ]
        arch = [
            options.index(c) for c, options in zip(choices, space.decisions.values(), strict=True)
        ]
        return float(rewards[space.index(space.arch(arch))])

    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0), storage=storage
    )
    study.optimize(objective, n_trials=trials)
    return trials


def import_seconds() -> float:
    """`import nasplug` in a fresh process, an empty Python's start taken off."""

    def start(code: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - begin

    start("import nasplug")
    rounds = [start("import nasplug") - start("pass") for _ in range(5)]
    return statistics.median(rounds)


def peak_megabytes() -> float:
    """Peak resident memory of a fresh process that opens nb201 and searches it."""
    answer = subprocess.run(
        [sys.executable, "-c", RSS], check=True, capture_output=True, text=True
    ).stdout
    return int(answer) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the trials")
    part = 10 if parser.parse_args().quick else 1
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NASPLUG_RUNS"] = folder
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        results["import nasplug, seconds"] = import_seconds()
        results["peak memory, MB"] = peak_megabytes()
        results |= best("batches", lambda: search(400_000 // part, BATCH))
        results |= best("one at a time", lambda: search(30_000 // part))
        results |= best("journal", lambda: journaled(20_000 // part))
        results |= tracked_rates(30_000 // part)
        results |= best("Optuna in memory", lambda: optuna_search(3_000 // part))
        start, storage = time.perf_counter(), f"sqlite:///{folder}/optuna.db"
        optuna_search(300 // part, storage)
        results["Optuna on SQLite"] = 300 // part / (time.perf_counter() - start)
        results["other load"] = os.getloadavg()[0]
    for name, value in results.items():
        target = f"   target {TARGETS[name]:,}" if name in TARGETS else ""
        unit = "" if "seconds" in name or "MB" in name or "load" in name else " trials/s"
        print(f"{name:48} {value:>12,.{0 if value > 100 else 3}f}{unit}{target}")
    print(json.dumps({name: round(value, 3) for name, value in results.items()}))


if __name__ == "__main__":
    main()
