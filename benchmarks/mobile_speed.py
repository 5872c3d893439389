"""How fast predictors answer on the mobile space, and what a query of DSM-NAS through one costs.

    python benchmarks/mobile_speed.py [--rounds 5]

One thread. Predictors learn 1,000 archs of `mobilenet` whose values are synthetic (the time does
not depend on them) and answer for 200,000 others, encoding counted. DSM-NAS searches by the
perceptron at the paper's settings (K=10, M=3, multiply-adds up to 600M), four or eight samples
per update, 2,000 queries. Times are of the CPU; the best of the rounds counts, since other work
only slows things down. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before numpy is imported

import numpy as np
import torch

import nasplug
from nasplug.analysis import predictor
from nasplug.kernel.registry import registry
from nasplug.run.api import make_search

PREDICTORS = ("dropout-mlp", "xgboost")
ARCHS, QUERIES = 200_000, 2000
TARGETS = {"archs_per_second": 400_000, "ms_per_query": 2.0}
DSM: dict[str, Any] = {"K": 10, "M": 3, "lr": 3e-4, "entropy": 1e-3}
CASES: dict[str, dict[str, Any]] = {
    "four samples": {"samples": 4},
    "four samples of one center": {"samples": 4, "parallel": 4},
    "eight samples of one center": {"samples": 8, "parallel": 8},
}  # fmt: skip


def seconds(function: Callable[[], Any], rounds: int) -> float:
    """Of CPU, the best of some rounds after one to warm up."""
    found = []
    for _ in range(rounds + 1):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    space = nasplug.space("mobilenet")
    weights = np.random.default_rng(0).normal(size=(space.d, 10))
    archs = space.sample(ARCHS, 1)
    result: dict[str, Any] = {"archs_per_second": {}, "ms_per_query": {}}

    def value(arch: dict[str, Any]) -> float:
        return float(weights[np.arange(space.d), space.arch(arch)].sum())

    with tempfile.TemporaryDirectory() as folder:
        pairs = nasplug.search(
            "random", space=space, evaluate=value, budget=1000, tracking=False,
            out=Path(folder) / "pairs", progress=False,
        )  # fmt: skip
        problem = nasplug.problem(
            "mobilenet/function", evaluator=f"predictor:{pairs.run_dir},model=dropout-mlp"
        )
    trials = pairs.search.trials
    for name in PREDICTORS:
        model = predictor(name, space).fit(trials.archs, trials.values)
        speed = ARCHS / seconds(lambda model=model: model.predict(archs), rounds)
        print(f"{name:28} {speed:10,.0f} archs per second", flush=True)
        result["archs_per_second"][name] = round(speed)
    for name, options in CASES.items():

        def search(options: dict[str, Any] = options) -> None:
            made = registry().get("method", "dsm")(**DSM, **options)
            make_search(problem, made, "dsm", budget=QUERIES, constraints=["flops<=600e6"]).run()

        ms = seconds(search, rounds) / QUERIES * 1e3
        print(f"{'DSM-NAS, ' + name:38} {ms:.2f} ms per query", flush=True)
        result["ms_per_query"][name] = round(ms, 3)
    result["met"] = {
        "archs_per_second": max(result["archs_per_second"].values()) >= TARGETS["archs_per_second"],
        "ms_per_query": min(result["ms_per_query"].values()) <= TARGETS["ms_per_query"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
