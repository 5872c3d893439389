"""What DSM-NAS itself costs per iteration, beside a straightforward controller in the same run.

    NASPLUG_DATA=... python benchmarks/dsm_speed.py [--rounds 7]

One thread, K=4, M=4 (and as shipped, M=1), on the table of NAS-Bench-201, so that nearly all the
time is the method's. The reference below is the same controller written step by step: an LSTM cell
for every decision, sampled with gradient, an ordinary Adam. Rounds alternate between the two. Times
are of the CPU, which on one thread are those of the clock when nothing else runs; the best is what
counts, since other work on the machine only ever slows things down. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before numpy is imported

import numpy as np
import torch
from torch import nn

import nasplug
from nasplug_dsm.controller import SubspaceConv, edges_to_better
from nasplug_dsm.method import DSM
from nasplug_dsm.policy import Edits

QUERIES = 300
TARGETS = {"one sample": 3.0, "four samples": 1.2}  # ms
CASES: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "one sample": {"K": 4, "M": 4, "samples": 1, "unseen": False},
    "four samples": {"K": 4, "M": 4, "samples": 4, "unseen": False},
    "four samples, unseen": {"K": 4, "M": 4, "samples": 4},
    "four samples in parallel": {"K": 4, "M": 4, "samples": 4, "parallel": 4, "unseen": False},
}


class Straightforward(nn.Module):
    """The controller, every decision in torch."""

    def __init__(self, d: int = 6, C: int = 5, M: int = 4, H: int = 64) -> None:
        super().__init__()
        e = H // 4
        self.M, self.C, self.H = M, C, H
        self.embed = nn.Embedding(d * C, e)
        self.first, self.second = SubspaceConv(d * e, d * e, H), SubspaceConv(H, d * e, H)
        self.token = nn.Embedding(d + d * C, H)
        self.cell = nn.LSTMCell(H, H)
        self.center, self.component, self.choice = (nn.Linear(H, n) for n in (H, d, C))
        self.offsets = torch.arange(d) * C
        self.d = d
        self.optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)

    def pick(self, centers: Any, scores: Any, closed: Any, rng: np.random.Generator) -> int:
        h = self.embed(torch.from_numpy(centers).long() + self.offsets).flatten(1)
        edges = edges_to_better(scores)
        graph = (edges, h[edges[1]] - h[edges[0]])
        self.nodes = self.second(self.first(h, *graph), *graph)
        self.log_p, self.entropy = [], []
        zeros = torch.zeros(1, self.H)
        self.state = self.cell(self.nodes.mean(0, keepdim=True), (zeros, zeros))
        self.picked = self.decide(1.5 * torch.tanh(self.center(self.state[0]) @ self.nodes.T))
        return int(self.picked)

    def decide(self, logits: torch.Tensor) -> torch.Tensor:
        distribution = torch.distributions.Categorical(logits=logits)
        action = distribution.sample()
        self.log_p.append(distribution.log_prob(action))
        self.entropy.append(distribution.entropy())
        return action

    def edit(self, n: int, rng: np.random.Generator) -> Edits:
        x, components, choices = self.nodes[self.picked], [], []
        for _ in range(self.M):
            self.state = self.cell(x, self.state)
            component = self.decide(0.6 * torch.tanh(self.component(self.state[0])))
            self.state = self.cell(self.token(component), self.state)
            choice = self.decide(0.6 * torch.tanh(self.choice(self.state[0])))
            x = self.token(self.d + component * self.C + choice)
            components.append(component)
            choices.append(choice)
        return Edits(torch.stack(components, 1).numpy(), torch.stack(choices, 1).numpy())

    def learn(self, edits: Edits, advantages: Any) -> None:
        gain = float(advantages[0]) * torch.cat(self.log_p).sum()
        loss = -gain - 7.5e-4 * torch.cat(self.entropy).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Reference(DSM):
    """Algorithm 1 with that controller."""

    def _policy(self, search: nasplug.Search) -> Any:
        return Straightforward()


def milliseconds(method: Any, problem: nasplug.Problem, seed: int) -> float:
    """Of CPU per query, in one search."""
    search = nasplug.Search(problem, method, budget=QUERIES, seed=seed, repeats="count")
    start = time.process_time()
    search.run()
    return (time.process_time() - start) / len(search.trials) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    problem = nasplug.problem("nb201/cifar10")
    times: dict[str, list[float]] = {"reference": [], **{name: [] for name in CASES}}
    for seed in range(rounds + 1):
        reference = Reference(K=4, M=4, samples=1, unseen=False)
        times["reference"].append(milliseconds(reference, problem, seed))
        for name, options in CASES.items():
            times[name].append(milliseconds(DSM(**options), problem, seed))
    result: dict[str, Any] = {}
    print(f"{'ms per query':26} {'best':>6} {'median':>7}  target  reference is slower by")
    slow = min(times["reference"][1:])  # the first round warms up
    for name, values in times.items():
        best, median = min(values[1:]), float(np.median(values[1:]))
        target = f"{TARGETS[name]:6.1f}" if name in TARGETS else " " * 6
        print(f"{name:26} {best:6.2f} {median:7.2f}  {target}  {slow / best:6.1f} x")
        result[name] = {"best_ms": round(best, 3), "median_ms": round(median, 3)}
        result[name]["ratio"] = round(slow / best, 2)
    result["met"] = {name: min(times[name][1:]) <= limit for name, limit in TARGETS.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
