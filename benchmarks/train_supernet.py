"""Progressive shrinking against uniform and fair paths, at equal epochs.

    python benchmarks/train_supernet.py --seeds 2 --out benchmarks/results/train_supernet.json

Of each supernet: what the smallest, the middle and the largest arch score on validation images with
inherited weights, the mean over random archs (depths uniform), and the rank correlation of their
scores with their multiply-adds; beside what the three archs score when they are trained alone for
as many epochs. What is done is kept after each training. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import nasplug
from nasplug import nn as nnas

STRATEGIES = ("progressive-shrinking", "uniform", "fair")
ARCHS = 30
THREE = ("smallest", "middle", "largest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", default="mobilenet:width=0.1/digits")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--paths", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    settings = {"epochs": options.epochs, "batch": options.batch, "paths": options.paths}
    found: dict[str, Any] = {"on": options.on, **settings, "supernets": [], "alone": []}
    rows: dict[str, list[Any]] = found
    space_name, _, data = options.on.rpartition("/")
    space = nasplug.space(space_name).for_data(data)
    images = nnas.load(data)
    for seed in range(options.seeds):
        for strategy in options.strategies:
            start = time.perf_counter()
            result = nasplug.search(
                "supernet", space=space, data=images, budget=options.epochs, seed=seed,
                strategy=strategy, tracking=False, **settings,
            )  # fmt: skip
            row = {"seed": seed, "strategy": strategy, **judged(result.search.method, images)}
            rows["supernets"].append({**row, "seconds": time.perf_counter() - start})
            keep(found, options.out)
    three = result.search.method.archs
    for seed in range(options.seeds):
        for name, arch in zip(THREE, three, strict=True):
            model = nnas.initialise(lambda arch=arch: space.build(arch), seed)
            acc = nnas.train(model, images, options.epochs, seed, batch_size=options.batch)["value"]
            rows["alone"].append({"seed": seed, "arch": name, "acc": acc})
            keep(found, options.out)
    print(json.dumps(found))


def judged(method: Any, images: nnas.Images) -> dict[str, Any]:
    """The scores of the three archs and of random ones."""
    net = method.net
    archs = net.draw(net.exists, ARCHS, np.random.default_rng(0))
    scores = [method.score(arch) for arch in archs]
    return {
        **{name: method.score(arch) for name, arch in zip(THREE, method.archs, strict=True)},
        "mean": float(np.mean(scores)), "scores": scores,
        "tau_flops": float(stats.kendalltau(scores, net.space.flops(archs)).statistic),
    }  # fmt: skip


def keep(found: dict[str, Any], file: Path | None) -> None:
    last = (found["alone"] or found["supernets"])[-1]
    print({name: value for name, value in last.items() if name != "scores"}, flush=True)
    if file:
        file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
