"""NB201 cells found on real CIFAR-10 by one supernet: the four criteria of OStr-DARTS, and DDSAS.

    NASPLUG_DATA=... python benchmarks/nb201_oneshot.py [--seeds 3] [--epochs 50]
        [--ddsas-epochs 50] [--warmup 0] [--C 8] [--N 1] [--batch 64] [--images 25000]
        [--threads 2] [--out FOLDER]

After every epoch: the tabulated 200-epoch test accuracy of the selected cell (never used by a
search), and per criterion the Spearman correlation, edge by edge, between its values and the
tabulated accuracy of the cells that differ from the selected one on that edge alone. The paper's
size is --C 16 --N 5 on a GPU; --images takes the first of the 25,000 training and of the
25,000 validation images. A search of fewer steps than the papers' 50 epochs raises Adam's rate for
the architecture and lowers DDSAS's M by as much, so that parameters can move as far and as many
subspaces are seen. --warmup is of DDSAS, whose steps cost half of those of a whole supernet. Runs
are kept in FOLDER and continued where they were. Prints tables and, as its last line, one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from scipy.stats import spearmanr

import nasplug
from nasplug.nn import load
from nasplug.run.directory import RunDirectory
from nasplug.run.journal import Row

SPACE = nasplug.space("nb201")
EDGES = SPACE.names
PAPER = {"steps": 50 * 390, "arch_lr": 3e-4, "M": 30}  # all images in batches of 64
IMAGES = 25_000  # of CIFAR-10 to train on, and as many to validate on
CRITERIA = ("strength", "strength*", "naive", "magnitude")


def tables(folder: str) -> dict[str, np.ndarray]:
    """{data set: (15625,) 200-epoch test accuracy by the index of the arch}."""
    file = parquet.read_table(Path(folder) / "nas-bench-201.parquet")
    index = SPACE.index(np.array([SPACE.from_str(text) for text in file["arch"].to_pylist()]))
    found = {}
    for data in ("cifar10", "cifar100"):
        found[data] = np.empty(len(index))
        found[data][index] = file[f"{data}/test_acc@200"].to_numpy()
    return found


def problem(name: str, n: int) -> dict[str, Any]:
    """What to search: on CIFAR-10 by name, or the same cells on the first n images of each part.

    The table of the published networks knows the cells by the first of these only, and a search
    reports what it says; what is printed here is looked up afterwards in any case.
    """
    if n >= IMAGES:
        return {"on": f"{name}/cifar10"}
    data = load("cifar10")
    train, val = ((images[:n], labels[:n]) for images, labels in (data.train, data.val))
    return {"space": nasplug.space(name), "data": replace(data, train=train, val=val)}


def run(
    method: str, seed: int, out: Path, of: dict[str, Any], options: dict[str, Any]
) -> list[Row]:
    """The journaled trials, one per epoch, of a search; continued if it was interrupted."""
    if (out / "run.json").exists():
        nasplug.resume(out, space=of.get("space"), data=of.get("data"), progress=False)
    else:
        nasplug.search(
            method, budget=options["epochs"], seed=seed, out=out, tracking=False, progress=False,
            **of, **options,
        )  # fmt: skip
    return RunDirectory.open(out).journal.read()


def edge_correlations(values: np.ndarray, table: np.ndarray) -> list[float]:
    """(6, 5) values of a criterion -> per edge, their rank correlation with the ablated cells."""
    arch = values.argmax(1)
    found = []
    for edge in range(6):
        cells = np.repeat(arch[None], 5, 0)
        cells[:, edge] = np.arange(5)
        found.append(float(spearmanr(values[edge], table[SPACE.index(cells)])[0]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--ddsas-epochs", type=int, default=50)
    parser.add_argument("--C", type=int, default=8)
    parser.add_argument("--N", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--warmup", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/nb201_oneshot"))
    options = parser.parse_args()
    accuracy, n = tables(os.environ["NASPLUG_DATA"]), options.images
    of = problem(f"nb201:C={options.C},N={options.N}", n)
    common = {"batch": options.batch, "threads": options.threads}

    def shrunk(epochs: int) -> float:
        return max(1.0, PAPER["steps"] / (epochs * (n // options.batch)))

    def settings(epochs: int) -> dict[str, Any]:
        return {**common, "epochs": epochs, "arch_lr": PAPER["arch_lr"] * shrunk(epochs)}

    ostr, ddsas = settings(options.epochs), settings(options.ddsas_epochs)
    ddsas["M"] = max(1, round(PAPER["M"] / shrunk(options.ddsas_epochs)))
    ddsas["warmup"] = options.warmup

    selected: dict[str, list[list[int]]] = {name: [] for name in (*CRITERIA, "ddsas")}
    ranks: dict[str, list[list[list[float]]]] = {name: [] for name in CRITERIA}
    for seed in range(options.seeds):
        epochs = run("ostr-darts", seed, options.out / f"ostr-{seed}", of, ostr)
        for name in CRITERIA:
            values = [np.array(epoch.notes["criteria"][name]) for epoch in epochs]
            selected[name].append([int(SPACE.index(v.argmax(1))) for v in values])
            ranks[name].append([edge_correlations(v, accuracy["cifar10"]) for v in values])
        epochs = run("ddsas", seed, options.out / f"ddsas-{seed}", of, ddsas)
        archs = [np.frombuffer(epoch.arch, SPACE.dtype) for epoch in epochs]
        selected["ddsas"].append([int(SPACE.index(arch)) for arch in archs])

    result: dict[str, Any] = {"images": n, "seeds": options.seeds, "C": options.C, "N": options.N}
    print("| method | CIFAR-10 | CIFAR-100 | per epoch, mean of seeds | cell, seed 0 |")
    print("| --- | --- | --- | --- | --- |")
    for name, cells in selected.items():
        found = {data: table[np.array(cells)] for data, table in accuracy.items()}
        shown = [f"{v[:, -1].mean():.2f} ± {v[:, -1].std():.2f}" for v in found.values()]
        path = " ".join(f"{v:.1f}" for v in found["cifar10"].mean(0))  # (seeds, epochs)
        cell = SPACE.to_str(SPACE.from_index([cells[0][-1]])[0])
        print(f"| {name} | {shown[0]} | {shown[1]} | {path} | `{cell}` |")
        result[name] = {
            "settings": ddsas if name == "ddsas" else ostr,
            "cifar10": np.round(found["cifar10"], 2).tolist(),
            "cifar100": np.round(found["cifar100"][:, -1], 2).tolist(),
            "cells": [SPACE.to_str(SPACE.from_index([seed[-1]])[0]) for seed in cells],
        }
    print(f"\n| Spearman | all epochs | last epoch | {' | '.join(EDGES)} |")
    print("| --- " * (3 + len(EDGES)) + "|")
    for name in CRITERIA:
        rho = np.array(ranks[name])  # (seeds, epochs, edges)
        edges = np.nanmean(rho, (0, 1))
        means = np.array([np.nanmean(rho), np.nanmean(rho[:, -1]), *edges])
        print(f"| {name} | " + " | ".join(f"{v:.2f}" for v in means) + " |")
        result[name]["spearman"] = np.round(means, 3).tolist()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
