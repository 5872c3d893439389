"""Whether loading holds a search up: what batches take of the steps that they are loaded for.

    python benchmarks/loading.py [--steps 20] [--threads 1]

A step is of the weights and of the architecture, each on a batch of its own, of GDAS on NB201
(C=16, N=1): one operation per edge, the cheapest that there is, so the most that loading can weigh.
*memory* has CIFAR-10's pixels in memory and crops and mirrors them; *files* reads a PNG of 32x32
for every image, as ImageFolder does, by processes that are a few batches ahead. Both are timed
against the same batch over and over, in turn. Prints a table and, as its last line, one JSON
object.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import torch
from PIL import Image

from nasplug.nn import Batch, BiLevel, Mixture, data, gumbel, initialise, to_device
from nasplug.spaces import NB201

BATCH = 64


class Files:
    """PNGs, decoded whenever they are asked for."""

    def __init__(self, images: data.Part) -> None:
        self.targets = images[1]
        self.files = []
        for pixels in images[0].numpy():
            file = io.BytesIO()
            Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "png")
            self.files.append(file.getvalue())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[np.ndarray[Any, Any], int]:
        image = np.asarray(Image.open(io.BytesIO(self.files[i])))
        return image.transpose(2, 0, 1), int(self.targets[i])


def gdas(device: str) -> Callable[[Batch, Batch], None]:
    """A step that learns architecture and weights, each in a path drawn for it."""
    net = to_device(initialise(NB201(N=1).supernet, 0), device)
    alpha = torch.zeros(net.exists.shape, device=device, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    level = BiLevel(net, [alpha], lambda: Mixture(*gumbel(alpha, 5.0, generator)))

    def step(val: Batch, train: Batch) -> None:
        level.architecture_step(val, train)
        level.weight_step(train).item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    memory = data.load("cifar10").to(device)
    few = torch.arange(40 * BATCH)
    data.IN_MEMORY = 0  # so that nothing is kept
    pictures = Files((memory.train[0][few].cpu(), memory.train[1][few].cpu()))
    files = data.from_datasets(pictures, padding=4)
    streams = {
        name: [
            data.Stream(images, part, BATCH, seed)
            for seed, part in enumerate((images.val, images.train))
        ]
        for name, images in (("memory", memory), ("files", files.to(device)))
    }
    still = streams["memory"][0][0]
    step = gdas(device)
    step(still, still)
    clock: dict[str, list[float]] = {name: [] for name in ("none", *streams)}
    numbers = count()
    for _ in range(10):
        for name, seconds in clock.items():
            start = time.perf_counter()
            for _ in range(options.steps):
                n = next(numbers)
                step(*([still, still] if name == "none" else (s[n] for s in streams[name])))
            seconds.append((time.perf_counter() - start) / options.steps)
    median = {name: float(np.median(seconds)) for name, seconds in clock.items()}
    shares = {name: 1 - median["none"] / median[name] for name in streams}
    print(f"{'batches':>8} {'ms/step':>8} {'images/s':>9} {'share':>7}")
    for name, seconds in median.items():
        print(
            f"{name:>8} {1000 * seconds:8.2f} {2 * BATCH / seconds:9.0f} {shares.get(name, 0):7.1%}"
        )
    result = {
        "device": device,
        "threads": options.threads,
        "ms_per_step": {name: round(1000 * seconds, 2) for name, seconds in median.items()},
        "share": {name: round(share, 4) for name, share in shares.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
