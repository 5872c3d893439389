"""Does a search of a network with choices marked in place find a better one than chance?

    python benchmarks/own_models.py --seeds 2 --out benchmarks/results/own_models.json

A network of two convolutions on digits, searched by one method of each kind. What each selects is
trained anew, as 20 random archs of the same space are, and scored on the test images, which no
search sees. Differentiable methods mix, so that they search the space of the middle widths, and are
held against random archs of that. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import nasplug
from nasplug import nn as nnas

RANDOM = 20
TRAINING = "train:epochs=5,lr=0.05"
MIDDLE = {"width1": 8, "width2": 16}
METHODS: dict[str, dict[str, Any]] = {
    "random": {"budget": 12, "evaluator": TRAINING},
    "regularized-evolution": {"budget": 12, "evaluator": TRAINING, "population": 5},
    "dsm": {"budget": 12},  # with a function of ours
    "spos": {"budget": 40, "epochs": 30},
    "ddsas": {"budget": 20},
}


class TwoConv(nn.Module):
    """(b, 1, 8, 8) -> (b, 10)."""

    def __init__(self) -> None:
        super().__init__()
        first = nnas.Choice([4, 8, 16], "width1")
        second = nnas.Choice([8, 16, 32], "width2")
        act = nnas.Choice({"relu": nn.ReLU(), "tanh": nn.Tanh(), "none": nn.Identity()}, "act")
        pools = {"max": nn.MaxPool2d(2), "avg": nn.AvgPool2d(2)}

        def conv(before: Any, after: Any, kernels: tuple[int, ...], name: str) -> Any:
            return nnas.Choice(
                {
                    f"conv{k}": lambda k=k: nnas.Conv2d(before, after, k, padding=k // 2)
                    for k in kernels
                },
                name,
            )

        self.body = nn.Sequential(
            conv(1, first, (1, 3, 5), "conv1"), nnas.BatchNorm2d(first), act,
            nnas.Choice(pools, "pool"),
            conv(first, second, (1, 3), "conv2"), nnas.BatchNorm2d(second), act,
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nnas.Linear(second, 10),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        return self.body(x)


def tested(space: nasplug.Space, arch: Any, seed: int) -> float:
    """Test accuracy of an arch that is trained from scratch, %."""
    problem = nasplug.Problem.of(space=space, data="digits", evaluator=TRAINING, seed=seed)
    return float(problem.score(arch[None]).reports[0])


def search(method: str, space: nasplug.Space, seed: int) -> nasplug.Selection:
    options = {"seed": seed, "tracking": False, "progress": False, **METHODS[method]}
    if method != "dsm":
        return nasplug.search(method, space=space, data="digits", **options)
    images = nnas.load("digits", seed)

    def score(arch: dict[str, Any]) -> float:
        model = nnas.initialise(lambda: space.build(arch), seed)
        return float(nnas.train(model, images, 5, seed, lr=0.05)["value"])

    return nasplug.search(method, space=space, evaluate=score, **options)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    whole = nasplug.space_of(TwoConv)
    whole = whole.suited(nnas.load("digits").example, 10)
    spaces = {"whole": whole, "middle widths": whole.fixed(MIDDLE)}
    found: dict[str, Any] = {"random archs": {}, "methods": {}}
    for name, space in spaces.items():
        scores = [tested(space, arch, 100) for arch in space.distinct(space.sample(40, 0))[:RANDOM]]
        found["random archs"][name] = {
            "n": len(scores), "mean": float(np.mean(scores)), "std": float(np.std(scores, ddof=1))
        }  # fmt: skip
        print(name, found["random archs"][name], flush=True)
    for method in METHODS:
        name = "middle widths" if method == "ddsas" else "whole"
        space, rows = spaces[name], []
        for seed in range(options.seeds):
            best = search(method, space, seed).best
            scores = [tested(space, best.arch, 100 + i) for i in range(3)]
            rows.append({"arch": str(best), "test": float(np.mean(scores))})
            print(method, rows[-1], flush=True)
        above = [row["test"] > found["random archs"][name]["mean"] for row in rows]
        found["methods"][method] = {"space": name, "searches": rows, "above": sum(above)}
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
