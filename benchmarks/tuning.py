"""Studies: what Optuna and tracking cost, what a second worker brings, what tuning finds.

    NASPLUG_DATA=... python benchmarks/tuning.py [--part overhead|workers|quality]

Prints tables and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
import psutil

import nasplug
from nasplug import tracking
from nasplug.kernel.registry import registry

SPACE = nasplug.Space({f"d{i}": range(8) for i in range(8)}, name="toy")
FRESH = 10_000  # the first of the seeds that no study has used


def waiting(arch: dict[str, int]) -> float:
    """An evaluator that waits, as for a GPU or another machine."""
    time.sleep(0.05)
    return float(sum(arch.values()))


def searches(folder: Path) -> list[dict]:
    return [r for r, _ in tracking.read_lines(folder / "searches.jsonl") if "seed" in r]


def loop(folder: Path) -> tuple[float, float]:
    """(wall seconds from the first search's start to the last one's end, seconds of searching)."""
    done = searches(folder)
    end = max(r["time"] for r, _ in tracking.read_lines(folder / "searches.jsonl") if "ended" in r)
    return end - min(r["start"] for r in done), sum(r["seconds"] for r in done)


def children_cpu() -> dict[int, float]:
    """CPU seconds of this process's children."""
    return {child.pid: sum(child.cpu_times()[:2]) for child in psutil.Process().children()}


def overhead(home: Path) -> dict[str, float]:
    """A study of dsm with tracking, beside the sum of its searches."""
    shares = []
    for repeat in range(3):
        start, cpu = time.perf_counter(), time.process_time()
        study = nasplug.tune(
            "dsm", "nb201/cifar100", trials=6, seeds=5, budget=200, params=("K", "M", "lr"),
            pruner="nop", seed=repeat, out=home / f"overhead-{repeat}",
        )  # fmt: skip
        whole, cpu = time.perf_counter() - start, time.process_time() - cpu
        wall, searching = loop(study.directory)
        tracking.wait(120)
        shares.append(
            (1 - searching / wall, wall, searching, whole, cpu, max(children_cpu().values()))
        )
        print(
            f"overhead {repeat}: loop {wall:.1f} s of which {searching:.1f} s searches, "
            f"{shares[-1][0]:.1%} Optuna; all of tune() {whole:.1f} s", flush=True,
        )  # fmt: skip
    share, wall, searching, whole, cpu, _ = np.median(shares, axis=0)
    n = len(searches(home / "overhead-0"))
    # The tracking process has imported MLflow and made the store in the first repeat.
    tracker = (shares[-1][5] - shares[0][5]) / (2 * n)
    return {
        "optuna_share": share,
        "loop_seconds": wall,
        "search_seconds": searching,
        "tune_seconds": whole,
        "tune_cpu_seconds": cpu,
        "tracker_cpu_ms_per_search": 1000 * tracker,
        "tracker_cpu_share": tracker * n / cpu,
        "optuna_and_tracking_share": share + tracker * n / cpu,
    }


def workers(home: Path) -> dict[str, float]:
    """The same trials by one worker and by two."""
    found = {}
    for name, options in {
        "dsm": {"method": "dsm", "on": "nb201/cifar100", "budget": 200, "trials": 16},
        "waiting": {
            "method": "regularized-evolution", "space": SPACE, "evaluate": waiting, "budget": 10,
            "trials": 12, "tournament": 2,
        },
    }.items():  # fmt: skip
        speedups = []
        for repeat in range(3):
            walls = []
            for count in (1, 2):
                folder = home / f"workers-{name}-{repeat}-{count}"
                nasplug.tune(
                    **options, seeds=5, sampler="random", pruner="nop", workers=count, out=folder,
                    tracking=False, params=("K", "M", "lr") if name == "dsm" else ("population",),
                )  # fmt: skip
                walls.append(loop(folder)[0])
            speedups.append(walls[0] / walls[1])
            print(f"workers {name} {repeat}: {walls[0]:.1f} s, {walls[1]:.1f} s", flush=True)
        found[f"speedup_{name}"] = float(np.median(speedups))
    return found


def fresh(hyperparameters: dict, seeds: int) -> np.ndarray:
    """The best reward of each search, on seeds that no study has used."""
    target, method = nasplug.problem("nb201/cifar100"), registry().get("method", "dsm")
    return np.array([
        nasplug.Search(target, method(**hyperparameters), "dsm", budget=200, seed=FRESH + i)
        .run().best.value
        for i in range(seeds)
    ])  # fmt: skip


def quality(home: Path) -> dict[str, object]:
    """50 trials x 5 seeds, then the best of them against the defaults on 100 fresh seeds."""
    from scipy.stats import ttest_rel, wilcoxon

    start = time.perf_counter()
    study = nasplug.tune(
        "dsm", "nb201/cifar100", trials=50, seeds=5, budget=200, workers=2,
        params=("K", "M", "samples", "lr", "entropy", "clip_center", "clip_edit"),
        out=home / "quality",
    )  # fmt: skip
    seconds = time.perf_counter() - start
    tracking.wait(120)
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    rival = max(complete[1:], key=lambda trial: trial.value)  # the first has the defaults
    tuned, defaults = fresh(rival.params, 100), fresh({}, 100)
    gain = tuned - defaults
    result = {
        "found_better_than_defaults": rival.value > study.trials[0].value,
        "hyperparameters": rival.params,
        "study_seconds": seconds,
        "study_searches": len(searches(study.directory)),
        "study_value": rival.value,
        "study_value_of_defaults": study.trials[0].value,
        "tuned": tuned.mean(),
        "defaults": defaults.mean(),
        "gain": gain.mean(),
        "gain_std_error": gain.std(ddof=1) / len(gain) ** 0.5,
        "wins": int((gain > 0).sum()),
        "losses": int((gain < 0).sum()),
        "p_t": ttest_rel(tuned, defaults, alternative="greater").pvalue,
        "p_wilcoxon": wilcoxon(gain, alternative="greater", zero_method="zsplit").pvalue,
    }
    result["defaults_stand"] = not result["p_t"] < 0.05
    for name, value in result.items():
        print(f"{name:>24}: {value}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = {"overhead": overhead, "workers": workers, "quality": quality}
    parser.add_argument(
        "--part", choices=parts, action="append", help="repeatable; all if left out"
    )
    chosen = parser.parse_args().part or list(parts)
    found: dict[str, object] = {"load": os.getloadavg()[0], "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("NASPLUG_RUNS", folder)
        for part in chosen:
            found |= parts[part](Path(folder))
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in found.items()}
    print(json.dumps(rounded))


if __name__ == "__main__":
    main()
