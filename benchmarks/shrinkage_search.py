"""Does search inside the shrunk space pay? Equal total queries, those of the shrinkage counted.

    python benchmarks/shrinkage_search.py --seeds 20

Each method searches the whole space with all the queries, or spends the first part of them on
LISSNAS and the rest inside the space that it left; there it begins anew, and the best arch of
both parts by reward counts. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import nasplug
from nasplug.analysis.quality import bootstrap

RESULTS = Path(__file__).parent / "results"
METHODS = ("random", "regularized-evolution", "dsm")


def run(on: str, methods: list[str], seed: int, total: int, first: int) -> dict[str, Any]:
    """{method: report and reward of the best arch in the whole space, shrunk first, and so on}."""
    options = {"on": on, "seed": seed, "tracking": False, "progress": False}
    shrunk = nasplug.search("lissnas", budget=first, **options)
    rows = {}
    for method in methods:
        whole = nasplug.search(method, budget=total, **options).best
        rest = {"budget": total - first, "within": shrunk.subspace}
        inside = nasplug.search(method, **rest, **options).best
        best = max(shrunk.best, inside, key=lambda trial: trial.value)
        rows[method] = {
            "whole": whole.report_value, "shrunk": best.report_value,
            "inside": inside.report_value, "lissnas": shrunk.best.report_value,
            "whole_reward": whole.value, "shrunk_reward": best.value,
        }  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", nargs="+", default=["nb201/cifar10", "nb201/cifar100"])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--total", type=int, default=200)
    parser.add_argument("--first", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=50)
    options = parser.parse_args()

    names = ("whole", "shrunk", "inside", "lissnas", "whole_reward", "shrunk_reward")
    text = [
        f"{options.total} queries, {options.first} of them by LISSNAS where the space is shrunk; "
        f"{options.seeds} seeds. `inside`: the best of the second part alone.\n",
        f"| problem | method | {' | '.join(names)} |\n|{' --- |' * (len(names) + 2)}",
    ]
    print("\n".join(text), flush=True)
    results = []
    with ProcessPoolExecutor(2) as pool:
        for on in options.on:
            jobs = [
                pool.submit(run, on, options.methods, seed, options.total, options.first)
                for seed in range(options.seeds)
            ]
            seeds = [job.result() for job in jobs]
            for method in options.methods:
                columns = {name: np.array([row[method][name] for row in seeds]) for name in names}
                cells = []
                for values in columns.values():
                    low, high = bootstrap(values)
                    cells.append(f"{values.mean():.2f} ±{(high - low) / 2:.2f}")
                text.append(f"| {on} | {method} | {' | '.join(cells)} |")
                print(text[-1], flush=True)
                results.append(
                    {"problem": on, "method": method}
                    | {name: round(float(values.mean()), 4) for name, values in columns.items()}
                )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "shrinkage_search.md").write_text("\n".join(text) + "\n")
    print(json.dumps({"seeds": options.seeds, "total": options.total, "results": results}))


if __name__ == "__main__":
    main()
