"""DSM-NAS against random search on Darcy flow, CPU-sized, with a Fourier neural operator beside.

Cells of NAS-Bench-201 whose edges are skips, 3x3 convolutions and average pools: 729, of which 496
are distinct. In dense networks of C=4, N=1, on every fourth of the 29 x 29 nodes that
`nasplug.nn.darcy` has (8 x 8), each is trained once, for 3 epochs of 160 fields in batches of 16,
and so has one value in all searches, as in a table. The reward is the relative L2 error on 100
other fields, lower is better; what is reported of the best is its test error.

Both methods are compared at equal trials, and random search also with more or fewer of them, for as
many multiply-adds of training as DSM-NAS has spent in the search of the same seed. The best cell of
each search and the operator (of `pip install neuraloperator`, with the settings of its own examples
on Darcy flow, but 8 modes, as many as there are nodes) are then trained for 12 epochs on the same
fields.

    python benchmarks/darcy.py [--seeds 20] > log

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

STEP, SIZE, OPS = 4, "nb201:C=4,N=1", (1, 3, 4)
FIELDS, EPOCHS, RETRAINED, BATCH = 160, 3, 12, 16
TRIALS, MORE = 60, 10  # of random search so many more, for as much as DSM-NAS has spent
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
    """Some of the nodes of inputs and labels, and fewer to train on."""
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
        method, space=space, within=nasplug.Mask(space, np.tile(np.isin(range(5), OPS), (6, 1))),
        seed=seed, direction="minimize", tracking=False,
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
    """The operator as neuraloperator's examples on Darcy flow have it."""
    from neuralop.models import FNO

    return FNO(
        n_modes=(8, 8), in_channels=1, out_channels=1, hidden_channels=32,
        projection_channel_ratio=2,
    )  # fmt: skip


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
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

    def operator(seed: int) -> dict[str, float]:
        adam = replace(
            images.task, optimizer=lambda w: torch.optim.AdamW(w, 8e-3, weight_decay=1e-4)
        )
        network, data = nnas.initialise(fno, seed), replace(images, task=adam)
        result = nnas.train(network, data, RETRAINED, seed, batch_size=BATCH)
        return {name: result[name] for name in ("value", "report", "seconds", "params")}

    operators = [kept.get(f"fno-{seed}", lambda s=seed: operator(s)) for seed in range(5)]
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        found = {method: search(method, seed, space, train) for method in ("random", "dsm")}
        spent = sum(found["dsm"]["cost"])
        chosen = {
            "dsm": ("dsm", best(found["dsm"])),
            "random, equal trials": ("random", best(found["random"], trials=TRIALS)),
            "random, equal cost": ("random", best(found["random"], cost=spent)),
        }
        row: dict[str, Any] = {"seed": seed}
        row["multiply_adds"] = {method: sum(told["cost"]) for method, told in found.items()}
        for name, (method, i) in chosen.items():
            told = {column: found[method][column][i] for column in ("index", "val", "test")}
            again = train(space.from_index(np.array([told["index"]]))[0], RETRAINED)
            row[name] = {**told, "retrained_test": again["report"]}
        rows.append(row)
        print(json.dumps(row), flush=True)
        if len(rows) > 1:
            write(rows, list(chosen), [one["report"] for one in operators])


def write(rows: list[dict[str, Any]], names: list[str], operators: list[float]) -> None:
    """Keep what is known so far."""
    columns = ("val", "test", "retrained_test")
    val = {name: np.array([row[name]["val"] for row in rows]) for name in names}
    answer: dict[str, Any] = {
        "trials": TRIALS, "epochs": EPOCHS, "retrained_epochs": RETRAINED, "batch": BATCH,
        "fields": FIELDS, "size": SIZE, "nodes": 8, "searches": len(rows),
        "means": {
            name: {column: spread([row[name][column] for row in rows]) for column in columns}
            for name in names
        },
        "dsm_lower": {name: int((val["dsm"] < other).sum()) for name, other in val.items()},
        "dsm_higher": {name: int((val["dsm"] > other).sum()) for name, other in val.items()},
        "fno_test": {**spread(operators), "all": operators}, "rows": rows,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(answer, indent=2) + "\n")


if __name__ == "__main__":
    main()
