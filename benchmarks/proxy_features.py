"""Do predictors rank better when they see zero-cost proxies beside the encoding?

    NASPLUG_DATA=... python benchmarks/proxy_features.py [--splits 30]

On NAS-Bench-201, CIFAR-10, validation accuracy after 12 epochs: a predictor learns from 50, 100 or
400 of the distinct ones of 2,000 random cells, whose proxies are measured as for warm_starts.py,
and ranks those that are left. Spearman and Kendall, means over random splits, and by how much they
are above those of the encoding alone on the same splits, with 95 % bootstrap intervals. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from warm_starts import interval, measured

import nasplug
from nasplug.analysis import predictor, rank_correlations

TRAIN = (50, 100, 400)
PREDICTORS = ("xgboost", "forest")
PROXIES = ("params", "flops", "naswot", "synflow", "jacov", "zen")
FEATURES: dict[str, tuple[str, ...]] = {
    "encoding": (),
    "params+flops": ("params", "flops"),
    "naswot": ("naswot",),
    "all six": PROXIES,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=30)
    parser.add_argument("--predictors", nargs="+", choices=PREDICTORS, default=PREDICTORS)
    options = parser.parse_args()
    problem = nasplug.problem("nb201/cifar10")
    space = problem.space
    archs, values = measured(space, PROXIES)
    accuracy = problem.score(archs).values
    table = np.full((space.size, len(PROXIES)), np.nan)  # by index of the arch a predictor asks of
    table[space.index(space.canonical(archs))] = np.transpose([values[name] for name in PROXIES])
    result: dict[str, Any] = {"splits": options.splits, "archs": len(archs), "rows": []}
    print(f"{'predictor':9} {'features':13} {'train':>5} {'spearman':>8} {'kendall':>8}  above")
    for name in options.predictors:
        for train in TRAIN:
            alone: np.ndarray | None = None
            for features, columns in FEATURES.items():
                use = [PROXIES.index(column) for column in columns]

                def extra(archs: nasplug.Archs, use: list[int] = use) -> np.ndarray:
                    return table[space.index(archs)][:, use]

                found = []
                for split in range(options.splits):
                    rows = np.random.default_rng(split).permutation(len(archs))
                    known, rest = rows[:train], rows[train:]
                    model = predictor(name, space, split, extra if use else None)
                    model.fit(archs[known], accuracy[known])
                    ranks = rank_correlations(model.predict(archs[rest]), accuracy[rest])
                    found.append([ranks["spearman"], ranks["kendall"]])
                alone = np.array(found) if alone is None else alone
                above = np.array(found) - alone
                spearman, kendall = np.mean(found, axis=0).round(3).tolist()
                row = {
                    "predictor": name, "features": features, "train": train,
                    "spearman": spearman, "kendall": kendall,
                    "kendall_above": round(float(above[:, 1].mean()), 3),
                    "kendall_above_interval": interval(above[:, 1]),
                }  # fmt: skip
                result["rows"].append(row)
                print(
                    f"{name:9} {features:13} {train:5} {spearman:8.3f} {kendall:8.3f} "
                    f"{row['kendall_above']:+.3f} {row['kendall_above_interval']}",
                    flush=True,
                )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
