"""A searched cell of NAS-Bench-201 against random ones, retrained alike on CIFAR-10, CPU-sized.

The cell is searched on the table's validation accuracy after 12 epochs; it and the random cells are
trained in networks of C=8, N=1 on the first images of CIFAR-10's training set, and judged by its
test set.

    NASPLUG_DATA=../shared/data python benchmarks/retrain.py > log
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import nasplug
from nasplug import nn as nnas
from nasplug.deploy.fit import fit
from nasplug.deploy.recipes import RECIPES
from nasplug.nn.training import initialise, score

METHOD, BUDGET, RANDOM = "regularized-evolution", 200, 5
IMAGES, EPOCHS, SEED = 3000, 12, 0
SIZE = {"C": 8, "N": 1}


def main() -> None:
    start = time.perf_counter()
    found = nasplug.search(METHOD, on="nb201/cifar10", budget=BUDGET, seed=SEED, tracking=False)
    space = found.best.space
    archs = space.distinct(space.sample(10 * RANDOM, seed=SEED))[:RANDOM]
    whole = nnas.load("cifar10").learning
    images = replace(whole, train=tuple(part[:IMAGES] for part in whole.train))
    recipe = replace(RECIPES["plain"], epochs=EPOCHS, batch=64)
    rows = []
    for name, arch in [("searched", found.best.arch), *(("random", arch) for arch in archs)]:
        network = initialise(lambda arch=arch: space.sized(**SIZE).build(arch), SEED)
        began = time.perf_counter()
        trained = fit(network, images, recipe, SEED)
        rows.append({
            "which": name, "arch": space.to_str(arch),
            "test_acc": score(trained, images, images.test),
            "seconds": round(time.perf_counter() - began, 1),
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    searched, *others = (row["test_acc"] for row in rows)
    answer = {
        "method": METHOD, "budget": BUDGET, "images": IMAGES, "epochs": EPOCHS, "size": SIZE,
        "seed": SEED, "searched": searched, "random_median": float(np.median(others)),
        "random": others, "beats_the_median": searched > float(np.median(others)),
        "seconds": round(time.perf_counter() - start, 1), "rows": rows,
    }  # fmt: skip
    file = Path(__file__).parent / "results" / "retrain.json"
    file.write_text(json.dumps(answer, indent=2) + "\n")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
