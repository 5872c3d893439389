"""What subspaces save: steps of the DARTS supernet by subspace size, memory, sampling, strength.

    python benchmarks/supernet_speed.py [--steps 5] [--threads 2] [--batch 16]

A step is forward, backward, clipping and SGD of the weights, in subspaces of L operations a cell,
drawn as DDSAS draws them. Memory is that of a process of its own.
The plain supernet beside it is what DARTS's and DDSAS's published code computes: every operation by
itself, with its own ReLU and pool, then multiplied by its weight; torch's own gradients. The
authors' times are those of their code, on another machine. Prints a table and, as its last line,
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nasplug.nn import AvgPool, BiLevel, Depthwise, Mixture, Op, Pointwise, Shared, initialise
from nasplug.spaces import Darts
from nasplug_ddsas.method import sample, ucb

SIZES = (15, 28, 42, 56, 84, 112)
AUTHORS = {28: (0.763, 1.49), 112: (2.714, 3.17)}  # seconds, GB


def plain(module: nn.Module) -> nn.Module:
    """The same, weights and all, without what our supernet does better."""
    if isinstance(module, Shared):
        return plain(module.layer)
    if isinstance(module, AvgPool):
        return nn.AvgPool2d(3, module.stride, padding=1, count_include_pad=False)
    if isinstance(module, Depthwise | Pointwise):
        conv = nn.Conv2d(
            module.in_channels, module.out_channels, module.kernel_size, module.stride,
            module.padding, module.dilation, module.groups, bias=False,
        )  # fmt: skip
        conv.weight = module.weight
        return conv
    if isinstance(module, Op):
        module = nn.Sequential(*module)
    for name, child in list(module.named_children()):
        setattr(module, name, plain(child))
    return module


class Steps:
    """Weight steps in a fresh subspace each."""

    def __init__(self, batch: int, as_published: bool = False) -> None:
        self.net = initialise(Darts().supernet, 0)
        if as_published:
            self.net = plain(self.net)
        self.mask = self.net.exists
        self.shape = self.mask.shape
        self.rng = np.random.default_rng(0)
        self.alpha = (1e-3 * torch.randn(self.shape)).requires_grad_()
        self.level = BiLevel(self.net, [self.alpha], self.mixture)
        self.batch = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))

    def mixture(self) -> Mixture:
        weights = self.alpha.masked_fill(torch.from_numpy(~self.mask), -torch.inf).softmax(-1)
        return Mixture(weights, self.mask)

    def draw(self, L: int) -> None:
        net, confidence = self.net, self.rng.random(self.shape)
        self.mask = sample(confidence, net.exists, L, net.groups(), net.cut)

    def time(self) -> tuple[float, float]:
        """Seconds of one step: by the clock, and of the processor."""
        start = time.perf_counter(), time.process_time()
        self.level.weight_step(self.batch)
        return time.perf_counter() - start[0], time.process_time() - start[1]


def peak(L: int, threads: int, batch: int) -> float:
    """GB of a process that does three steps; with L=0 none, so that it has imported torch."""
    arguments = [sys.executable, __file__, "--peak", str(L), "--threads", str(threads)]
    output = subprocess.run([*arguments, "--batch", str(batch)], capture_output=True, check=True)
    return float(output.stdout)


def sampling(repeats: int = 300) -> float:
    """Milliseconds to draw a subspace of 28 operations a cell: confidence and selection."""
    rng, groups = np.random.default_rng(0), [[*range(14)], [*range(14, 28)]]
    p, t = rng.random((28, 8)), rng.integers(1, 50, (28, 8))
    everything, cut = np.ones((28, 8), bool), np.zeros((28, 8), bool)
    cut[:, 0] = True
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        sample(ucb(p, 100, t), everything, 28, groups, cut)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def strength(repeats: int = 200) -> float:
    """Milliseconds that the four criteria of OStr-DARTS add to a step."""
    from nasplug_ostr.method import CRITERIA, OStrDarts

    method = OStrDarts()
    method.epoch, method.batches = 0, 0
    method.alpha = torch.randn(28, 8, requires_grad=True)
    method.alpha.grad = torch.randn(28, 8)
    method.sums = {name: torch.zeros(28, 8) for name in CRITERIA}

    class Level:
        mixed, gradient = method.alpha.detach().softmax(-1), torch.randn(28, 8)

    method.bilevel = Level
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        method.after_step()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="steps for each size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps = Steps(options.batch)
    if options.peak is not None:
        for _ in range(3 if options.peak else 0):
            steps.draw(options.peak)
            steps.time()
        status = Path("/proc/self/status").read_text()
        print(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9)
        return
    published = Steps(options.batch, as_published=True)
    steps.time()
    published.time()
    # Sizes in turn, so that whatever else the machine does meets them all alike.
    measured = np.empty((options.steps, len(SIZES), 2))
    beside: dict[int, list[float]] = {L: [] for L in AUTHORS}
    for row in measured:
        for i, L in enumerate(SIZES):
            steps.draw(L)
            row[i] = steps.time()
            if L in AUTHORS:
                published.mask = steps.mask
                beside[L].append(published.time()[0])
    wall, processor = np.median(measured, axis=0).T
    plain_wall = {L: float(np.median(seconds)) for L, seconds in beside.items()}
    memory = {L: peak(L, options.threads, options.batch) for L in (0, *AUTHORS)}

    print(f"{'L':>4} {'s/step':>8} {'CPU s':>8} {'/L=112':>7} {'plain':>8}   authors")
    for i, L in enumerate(SIZES):
        known = f"{AUTHORS[L][0]:.3f} s, {AUTHORS[L][1]} GB" if L in AUTHORS else ""
        beside_it = f"{plain_wall[L]:8.3f}" if L in AUTHORS else " " * 8
        share = processor[i] / processor[-1]
        print(f"{L:4} {wall[i]:8.3f} {processor[i]:8.3f} {share:7.3f} {beside_it}   {known}")
    sizes = np.array(SIZES)
    r2 = float(np.corrcoef(sizes, processor)[0, 1] ** 2)
    small, added = SIZES.index(28), strength()
    result = {
        "threads": options.threads,
        "ratio_28_112": round(float(wall[small] / wall[-1]), 3),
        "cpu_ratio_28_112": round(float(processor[small] / processor[-1]), 3),
        "memory_gb": {str(L): round(gb, 2) for L, gb in memory.items()},
        "memory_ratio": round(memory[28] / memory[112], 3),
        "memory_ratio_beyond_import": round(
            (memory[28] - memory[0]) / (memory[112] - memory[0]), 3
        ),
        "seconds": {"28": round(float(wall[small]), 3), "112": round(float(wall[-1]), 3)},
        "of_plain": {
            str(L): round(float(wall[SIZES.index(L)] / plain_wall[L]), 3) for L in AUTHORS
        },
        "linear_r2": round(r2, 4),
        "sampling_ms": round(sampling(), 4),
        "strength_ms": round(added, 4),
        "strength_share": added / 1000 / (2 * float(wall[-1])),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
