"""Speed and memory of the shrinkage on ShuffleNetV2's 4^20 networks.

    python benchmarks/lissnas_scale.py

There is no table of this space: the predictor is a 300-tree XGBoost model of a synthetic objective,
made here, that says nothing about real networks. Last line: one JSON object, also written to
results/lissnas_scale.json.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import nasplug
from nasplug.analysis import XGBoost
from nasplug_lissnas.shrink import WORK, Pockets, first_of_each

ARCHS = 500_000
REPEATS = 5
RESULTS = Path(__file__).parent / "results"
SIZES = (100_000, 300_000, 1_000_000)


def synthetic(archs: np.ndarray) -> np.ndarray:
    """A sum over layers with interactions of neighboring ones."""
    rng = np.random.default_rng(0)
    single, pair = rng.normal(size=(20, 4)), rng.normal(size=(19, 4, 4))
    return (
        single[np.arange(20), archs].sum(1)
        + 0.5 * pair[np.arange(19), archs[:, :-1], archs[:, 1:]].sum(1)
    )  # fmt: skip


def rate(work: Callable[[], object], n: int = ARCHS) -> float:
    """Archs per second, the median of some repeats."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return n / statistics.median(seconds)


def main() -> None:
    space = nasplug.space("shufflenetv2")
    rng = np.random.default_rng(0)
    sample = space.sample(5000, rng)
    model = XGBoost(space).fit(sample, synthetic(sample))
    archs = space.sample(ARCHS, rng)
    features = space.features(archs[:100_000])
    edits = 1 + np.arange(ARCHS) % 6
    rates = {
        "encode": rate(lambda: space.features(archs)),
        "xgboost_alone_1_thread": rate(lambda: model.model.inplace_predict(features), 100_000),
        "encode_and_predict": rate(lambda: model.predict(archs)),
        "neighbors": rate(lambda: space.edit(archs, edits, rng)),
        "deduplicate": rate(lambda: first_of_each(space, archs)),
        "distances": rate(lambda: space.distance(archs, archs[::-1])),
        "keys": rate(lambda: space.classes(archs)),
    }
    for name, value in rates.items():
        print(f"{name:24} {value:>14,.0f} archs/s")
    shrunk = []
    for size in (int(text) for text in sys.argv[1:] or SIZES):
        start = time.perf_counter()
        pockets = Pockets(space, model.predict, space.contains, size, pocket=10, distance=6)
        kept = pockets.shrink(space.sample(2 * WORK, rng), rng)
        seconds = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        values = synthetic(kept.archs)
        shrunk.append(
            {
                "size": len(kept.archs), "seconds": round(seconds, 1),
                "peak_gb": round(memory, 2), "queries": kept.queries,
                "iterations": len(kept.means), "objective": round(float(values.mean()), 2),
                "objective_of_a_sample": round(float(synthetic(sample).mean()), 2),
            }
        )  # fmt: skip
        print(shrunk[-1], flush=True)
    found = {"archs_per_second": {k: round(v) for k, v in rates.items()}, "shrunk": shrunk}
    (RESULTS / "lissnas_scale.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
