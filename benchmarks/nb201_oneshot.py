"""NB201 cells found on real CIFAR-10 by one supernet: the four criteria of OStr-DARTS, and DDSAS.

    NASPLUG_DATA=... python benchmarks/nb201_oneshot.py [--seeds 3] [--epochs N] [--minutes 60]
        [--C 8] [--N 5] [--side 16] [--batch 64] [--images 25000] [--jobs 1] [--out FOLDER]

The default is what a CPU can: images averaged down to 16x16, half the channels, the papers' depth
(N=5; at N=1 their phenomena do not show). The papers' size, on a GPU, in pieces that continue each
other: --C 16 --side 32 --minutes 9, which is about one run; several beside each other gain nothing
there. OStr-DARTS runs for 25 epochs of its schedule of 100, three to four hours of a core and five
minutes of an H200, DDSAS (L=12, M=30, no warm-up) for all of its 50, which takes about as long;
--epochs says otherwise of both. All at the papers' rates. Every run (a method and a seed) is a
process of its own, --jobs of them at a time; after --minutes they stop, and the next call continues
them.

After every epoch: the tabulated 200-epoch test accuracy of the selected cell (never used by a
search), and per criterion the Spearman correlation, edge by edge, between its values and the
tabulated accuracy of the cells that differ from the selected one on that edge alone. Prints tables
of what there is, also of runs that have not ended, and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch
from scipy.stats import spearmanr
from torch.nn.functional import avg_pool2d

import nasplug
from nasplug.nn import Images, load
from nasplug.nn.data import Part
from nasplug.run.directory import RunDirectory
from nasplug.run.journal import Row

SPACE = nasplug.space("nb201")
EDGES = SPACE.names
NONE = np.array([op == "none" for op in SPACE.decisions[EDGES[0]]])
SCHEDULES = {"ostr-darts": {"epochs": 100}, "ddsas": {"epochs": 50, "L": 12, "M": 30}}
EPOCHS = {"ostr-darts": 25, "ddsas": 50}  # of these
CRITERIA = {
    "ostr-darts": ("strength", "strength*", "naive", "magnitude"), "ddsas": ("saliency", "joint"),
}  # fmt: skip


def tables(folder: str) -> dict[str, np.ndarray]:
    """{data set: (15625,) 200-epoch test accuracy by the index of the arch}."""
    file = parquet.read_table(Path(folder) / "nas-bench-201.parquet")
    index = SPACE.index(np.array([SPACE.from_str(text) for text in file["arch"].to_pylist()]))
    found = {}
    for data in ("cifar10", "cifar100"):
        found[data] = np.empty(len(index))
        found[data][index] = file[f"{data}/test_acc@200"].to_numpy()
    return found


def images(n: int, side: int) -> Images:
    """The first n images to train on and to validate on, averaged down to side x side."""

    def small(part: Part) -> Part:
        pixels, labels = part
        k = pixels.shape[-1] // side
        return avg_pool2d(pixels[:n].float(), k).round().to(pixels.dtype), labels[:n]

    data = load("cifar10")
    padding = data.padding * side // 32  # crops move by the same share of an image
    return replace(data, train=small(data.train), val=small(data.val), padding=padding)


class Until:
    """Ends a search between two epochs, to be continued: at a time, or after some of them."""

    def __init__(self, clock: float, epochs: int) -> None:
        self.clock, self.epochs = clock, epochs

    @nasplug.hookimpl(tryfirst=True)
    def sample_space(self, search: nasplug.Search) -> None:
        if len(search.trials) >= self.epochs or time.time() > self.clock:
            raise KeyboardInterrupt


def run(method: str, seed: int, options: argparse.Namespace, clock: float) -> str:
    """Search until some time; continues where it was. Returns the peak of the GPU's memory."""
    out = options.out / f"{method}-{seed}"
    torch.set_num_threads(1)
    given: dict[str, Any] = {
        "space": nasplug.space(f"nb201:C={options.C},N={options.N}"),
        "data": images(options.images, options.side), "progress": False,
        "plugins": [Until(clock, options.epochs or EPOCHS[method])],
    }  # fmt: skip
    with suppress(KeyboardInterrupt):
        if (out / "run.json").exists():
            nasplug.resume(out, **given)
        else:
            settings = {"batch": options.batch, **SCHEDULES[method]}
            nasplug.search(
                method, budget=SCHEDULES[method]["epochs"], seed=seed, out=out, tracking=False,
                **settings, **given,
            )  # fmt: skip
    peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0
    return f"{method}, seed {seed}: peak {peak:.0f} MB of GPU memory"


def trials(out: Path, epochs: int) -> list[Row]:
    """The journaled epochs of a run; none if it has not begun."""
    if not (out / "run.json").exists():
        return []
    return RunDirectory.open(out).journal.read(limit=epochs)


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
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--C", type=int, default=8)
    parser.add_argument("--N", type=int, default=5)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=25_000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/nb201_oneshot"))
    options = parser.parse_args()
    clock = time.time() + 60 * options.minutes
    cases = [(method, seed) for seed in range(options.seeds) for method in SCHEDULES]
    workers = ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"))
    for task in [workers.submit(run, *case, options, clock) for case in cases]:
        print(task.result(), file=sys.stderr)

    accuracy = tables(os.environ["NASPLUG_DATA"])
    names = [name for of in CRITERIA.values() for name in of]
    selected: dict[str, list[list[int]]] = {name: [] for name in names}
    ranks: dict[str, list[list[list[float]]]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {method: [] for method in SCHEDULES}
    for method, seed in cases:
        epochs = trials(options.out / f"{method}-{seed}", options.epochs or EPOCHS[method])
        seconds[method] += [float(epoch.cost or 0) for epoch in epochs]
        for name in CRITERIA[method] if epochs else ():
            values = [np.array(epoch.notes["criteria"][name]) for epoch in epochs]
            if method == "ddsas":  # which does not select none
                values = [np.where(NONE, -np.inf, v) for v in values]
            selected[name].append([int(SPACE.index(v.argmax(1))) for v in values])
            ranks[name].append([edge_correlations(v, accuracy["cifar10"]) for v in values])

    steps = options.images // options.batch
    speed = {m: round(steps / np.median(s), 2) for m, s in seconds.items() if s}
    given = ("C", "N", "side", "images", "batch", "epochs", "seeds", "jobs")
    result: dict[str, Any] = {
        "settings": {name: getattr(options, name) for name in given}, "steps_per_second": speed,
    }  # fmt: skip
    print("| method, seed | epochs | CIFAR-10 | CIFAR-100 | per epoch | cell |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, runs in selected.items():
        result[name] = {"cifar10": [], "cifar100": []}
        for seed, cells in enumerate(runs):
            found = {data: table[np.array(cells)] for data, table in accuracy.items()}
            last = " | ".join(f"{v[-1]:.2f}" for v in found.values())
            path = " ".join(f"{v:.2f}" for v in found["cifar10"])
            cell = SPACE.to_str(SPACE.from_index([cells[-1]])[0])
            print(f"| {name}, {seed} | {len(cells)} | {last} | {path} | `{cell}` |")
            result[name]["cifar10"].append(np.round(found["cifar10"], 2).tolist())
            result[name]["cifar100"].append(round(float(found["cifar100"][-1]), 2))
    print(f"\n| Spearman | all epochs | last epoch | {' | '.join(EDGES)} |")
    print("| --- " * (3 + len(EDGES)) + "|")
    for name, of_runs in ranks.items():
        if of_runs:
            every = np.concatenate([np.array(rho) for rho in of_runs])  # (epochs of all, edges)
            last = np.array([rho[-1] for rho in of_runs])
            means = np.array([np.nanmean(every), np.nanmean(last), *np.nanmean(every, 0)])
            print(f"| {name} | " + " | ".join(f"{v:.2f}" for v in means) + " |")
            result[name]["spearman"] = np.round(means, 2).tolist()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
