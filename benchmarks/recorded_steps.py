"""Steps of a supernet on a GPU, launched kernel by kernel and replayed as CUDA graphs.

    NASPLUG_DATA=... python benchmarks/recorded_steps.py [--steps 60]

OStr-DARTS, which mixes all choices in every step, and DDSAS, whose subspace changes every 30 steps
(L=12), on nb201 with N=5 and batches of 64, at the papers' size and at half the channels on images
of 16x16. A step is one of the architecture and one of the weights. The median is of a step that is
replayed; the mean over the last 30 has a DDSAS subspace's share of recording. Prints a table, the
largest difference of the losses, and, as its last line, one JSON object. Says so without a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from nb201_oneshot import SCHEDULES, images

import nasplug

SIZES = ((16, 32), (8, 16))  # channels, side of the images
data = cache(images)


class Steps:
    """So many steps of a search, which then ends."""

    def __init__(self, n: int, recorded: bool) -> None:
        self.n, self.recorded = n, recorded
        self.seconds: list[float] = []
        self.losses: list[float] = []

    @nasplug.hookimpl(tryfirst=True)
    def sample_space(self, search: nasplug.Search) -> None:
        method: Any = search.method
        if not self.recorded:
            method.bilevel.recordable = False
        for _ in range(self.n):
            if search.method_name == "ddsas":
                method.mask = method.choices_of(method.sample_space(search))
            start = time.perf_counter()
            method._step()
            torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - start)
        self.losses = method.losses + method.val_losses
        raise KeyboardInterrupt


def measure(name: str, C: int, side: int, n: int, recorded: bool) -> Steps:
    steps = Steps(n, recorded)
    with TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        nasplug.search(
            name, space=nasplug.space(f"nb201:C={C},N=5"), data=data(25_000, side),
            budget=SCHEDULES[name]["epochs"], seed=0, batch=64, out=Path(folder) / "run",
            tracking=False, progress=False, plugins=[steps], **SCHEDULES[name],
        )  # fmt: skip
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU: CUDA graphs need one")
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "steps": options.steps,
    }  # fmt: skip
    print("| method, size | launched, ms | replayed, ms | mean, ms | difference of losses |")
    print("| --- | --- | --- | --- | --- |")
    for C, side in SIZES:
        for name in SCHEDULES:
            one, other = (measure(name, C, side, options.steps, r) for r in (False, True))
            a, b = (1000 * float(np.median(steps.seconds)) for steps in (one, other))
            mean = 1000 * float(np.mean(other.seconds[-30:]))
            apart = float(np.abs(np.subtract(one.losses, other.losses)).max())
            size = f"C={C}, {side}x{side}"
            print(f"| {name}, {size} | {a:.1f} | {b:.1f} | {mean:.1f} | {apart:.2g} |")
            result[f"{name}, {size}"] = {
                "launched_ms": round(a, 1), "replayed_ms": round(b, 1), "mean_ms": round(mean, 1),
                "ratio": round(b / a, 3), "largest_difference": apart,
            }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
