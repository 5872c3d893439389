"""DSM-NAS against random search on Darcy flow, CPU-sized, with a Fourier neural operator beside.

Cells of NAS-Bench-201 in dense networks of C=4, N=1, on every second node of the 29 x 29 that
`nasplug.nn.darcy` has, each trained for 3 epochs of 160 fields in batches of 8. The reward is the
relative L2 error on 100 other fields, lower is better; what is reported of the best is its test
error. An arch is trained once, from one seed, and so has one value in all searches, as in a table.

Both methods are compared at equal trials, and random search also with more trials, for as many
multiply-adds of training as DSM-NAS has spent in the search of the same seed. The best cell of each
search and the operator (of `pip install neuraloperator`, with the settings of its own example on
Darcy flow) are then trained for 12 epochs on the same fields.

    python benchmarks/darcy.py [--seeds 5] > log

What is trained is kept in runs/darcy.json, so that it goes on where it was stopped.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import nasplug
from nasplug import nn as nnas

STEP, SIZE = 2, "nb201:C=4,N=1"
FIELDS, EPOCHS, RETRAINED, BATCH = 160, 3, 12, 8
TRIALS, MORE = 30, 15  # of random search so many more, for as much as DSM-NAS has spent
KEPT = Path("runs/darcy.json")
RESULTS = Path(__file__).parent / "results" / "darcy.json"


class Kept:
    """{name: result} of what has been trained, in a file."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}

    def get(self, name: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
        if name not in self.results:
            self.results[name] = make()
            KEPT.parent.mkdir(exist_ok=True)
            KEPT.write_text(json.dumps(self.results))
        found: dict[str, float] = self.results[name]
        return found


def coarse(images: nnas.Images) -> nnas.Images:
    """Every second node of inputs and labels, and fewer to train on."""
    train, val, test = (
        tuple(x[..., ::STEP, ::STEP].contiguous() for x in part)
        for part in (images.train, images.val, images.test)
    )
    return replace(images, train=(train[0][:FIELDS], train[1][:FIELDS]), val=val, test=test)


def search(
    method: str, seed: int, space: nasplug.Space, train: Callable[[nasplug.Archs], Any]
) -> dict[str, list[float]]:
    """What each trial had, in their order."""
    result = nasplug.search(
        method, space=space, seed=seed, direction="minimize", tracking=False,
        budget=TRIALS + (MORE if method == "random" else 0),
        evaluate=lambda arch: train(space.from_dict(arch)),
    )  # fmt: skip
    trials = result.search.trials
    return {
        "index": space.index(trials.archs).tolist(), "val": trials.values.tolist(),
        "test": trials.reports.tolist(), "cost": trials.costs.tolist(),
    }  # fmt: skip


def best(found: dict[str, list[float]], cost: float = np.inf, trials: int | None = None) -> int:
    """The trial of the lowest validation error, of the first or of those that the cost pays for."""
    paid = int(np.searchsorted(np.cumsum(found["cost"]), cost, "right"))
    return int(np.argmin(found["val"][: min(trials or paid, paid)]))


def fno() -> nn.Module:
    """The operator as neuraloperator's example on Darcy flow has it."""
    from neuralop.models import FNO

    return FNO(
        n_modes=(8, 8), in_channels=1, out_channels=1, hidden_channels=24,
        projection_channel_ratio=2,
    )  # fmt: skip


def spread(values: list[float]) -> dict[str, Any]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)), "all": values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    images, kept = coarse(nnas.load("darcy")), Kept()
    space = images.size(nasplug.space(SIZE))

    def train(arch: nasplug.Archs, epochs: int = EPOCHS) -> dict[str, float]:
        arch = space.canonical(arch[None])[0]

        def made() -> dict[str, float]:
            network = nnas.initialise(lambda: space.build(arch), 0)
            result = nnas.train(network, images, epochs, 0, batch_size=BATCH)
            return {name: result[name] for name in ("value", "report", "seconds")}

        result = kept.get(f"{int(space.index(arch[None])[0])}@{epochs}", made)
        cost = epochs * len(images.train[1]) * float(space.flops(arch[None])[0])
        return {**result, "cost": cost}

    rows: list[dict[str, Any]] = []
    for seed in seeds:
        found = {method: search(method, seed, space, train) for method in ("random", "dsm")}
        spent = sum(found["dsm"]["cost"])
        chosen = {
            "dsm": ("dsm", best(found["dsm"])),
            "random, equal trials": ("random", best(found["random"], trials=TRIALS)),
            "random, equal cost": ("random", best(found["random"], cost=spent)),
        }
        rows.append({
            "seed": seed, "multiply_adds": {"dsm": spent, "random": sum(found["random"]["cost"])},
            "chosen": {
                name: {column: found[method][column][i] for column in ("index", "val", "test")}
                for name, (method, i) in chosen.items()
            },
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
        write(rows, {})
    again: dict[str, list[float]] = {}
    for row in rows:
        for name, told in row["chosen"].items():
            arch = space.from_index(np.array([told["index"]]))[0]
            again.setdefault(name, []).append(train(arch, RETRAINED)["report"])
            print(name, again[name][-1], flush=True)

    def operator(seed: int) -> dict[str, float]:
        adam = replace(
            images.task, optimizer=lambda w: torch.optim.AdamW(w, 1e-2, weight_decay=1e-4)
        )
        network, data = nnas.initialise(fno, seed), replace(images, task=adam)
        result = nnas.train(network, data, RETRAINED, seed, batch_size=2 * BATCH)
        return {name: result[name] for name in ("value", "report", "seconds", "params")}

    again["fno"] = [kept.get(f"fno-{seed}", lambda s=seed: operator(s))["report"] for seed in seeds]
    print(json.dumps(write(rows, again)))


def write(rows: list[dict[str, Any]], again: dict[str, list[float]]) -> dict[str, Any]:
    """Keep what is known so far."""
    answer: dict[str, Any] = {
        "trials": TRIALS, "epochs": EPOCHS, "retrained_epochs": RETRAINED, "batch": BATCH, "fields": FIELDS,
        "size": SIZE, "nodes": 15,
        "test": {
            name: spread([row["chosen"][name]["test"] for row in rows])
            for name in rows[0]["chosen"]
        } if len(rows) > 1 else {},
        "retrained_test": {name: spread(values) for name, values in again.items()},
        "seeds": rows,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(answer, indent=2) + "\n")
    return answer


if __name__ == "__main__":
    main()
