"""ProxylessNAS: "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware" (Cai,
Zhu and Han, ICLR 2019): the latency is a table's, or multiply-adds, as AutoSpace has it (eq. 6)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasplug import Choice, Float, Int, NasplugError, Search
from nasplug.nn import Batch, Floats, Mixture, Oneshot, binary_gates, draw_paths
from nasplug_oneshot.paths import LatencyTarget, Target

BASELINE = 0.9  # how much of it a moving average of the reward keeps
BETAS = (0.0, 0.999)  # Adam's: without momentum, what was not drawn stays where it is


class Proxyless(Oneshot):
    """ProxylessNAS: one path of a supernet in memory to learn weights, two to learn them.

    The result keeps to `target_madds` or `target_latency`, if there is one. The paper's term is
    linear in it; here it is two-sided, so that what is found costs what the target says.
    """

    paper = "Cai et al., ProxylessNAS: Direct NAS on Target Task and Hardware, ICLR 2019"
    problem = "manual-irb/digits"

    algorithm = Choice(
        "gradient", choices=("gradient", "reinforce"),
        doc="how paths are learned: through binary gates, or by the reward of one sampled path",
    )  # fmt: skip
    target_madds = Float(0.0, low=0, high=1e15, tunable=False, doc="multiply-adds; 0: no limit")
    target_latency = Float(
        0.0, low=0, high=1e6, tunable=False, doc="ms, by the table that is latency=; 0: no limit"
    )  # fmt: skip
    penalty = Float(1.0, low=0, high=1e3, doc="λ: of the expected cost off the target (eq. 6)")
    every = Int(
        5, low=1, high=10_000, log=True, doc="steps of the weights for one step of the paths"
    )
    lr = replace(Oneshot.lr, default=0.1)
    arch_lr = Float(
        3e-2, low=1e-6, high=10, log=True, doc="of the paths: Adam; the paper: 0.001, for longer"
    )

    def start(self, search: Search) -> list[Tensor]:
        self.alpha = self.parameter(*self.mask.shape)
        self.target = self._find_target(search)
        self.costs = self.alpha.detach().new_tensor(self.target.costs)
        self.baseline = float("nan")
        return [self.alpha]

    def _find_target(self, search: Search) -> Target:
        if not self.target_latency:
            return Target(self.net, self.mask, self.handed, self.target_madds)
        if self.target_madds:
            raise NasplugError("one target: target_madds or target_latency, not both")
        return LatencyTarget(self.net, self.mask, self.handed, self.target_latency, search.latency)

    def setup(self, search: Search) -> None:
        super().setup(search)
        self.bilevel.architecture = torch.optim.Adam([self.alpha], self.arch_lr, betas=BETAS)
        if self.target.limit and self.algorithm == "gradient":
            self.bilevel.penalty = self.off_target

    # ---- a step

    @property
    def logits(self) -> Tensor:
        return self.masked(self.alpha)

    def mixture(self) -> Mixture:
        """One path to learn weights; two, of which one is open, to learn by gradient (eq. 4)."""
        paths = min(2 if torch.is_grad_enabled() else 1, self.mask.shape[1])
        gates, mask = binary_gates(self.logits, paths, self.generator(1 + paths))
        self.drawn = mask & self.mask
        return Mixture(gates, self.drawn)

    def off_target(self) -> Tensor:
        """λ |log(E[cost] / target)|   (AutoSpace, eq. 6)."""
        expected = self.target.fixed + (self.logits.softmax(-1) * self.costs).sum()
        return self.penalty * (expected / self.target.limit).log().abs()

    def architecture_step(self, val: Batch, train: Batch) -> Tensor | None:
        if self.step % self.every:
            return None
        if self.algorithm == "reinforce":
            return self._reinforce(val)
        before = self.alpha.detach().clone()
        loss = super().architecture_step(val, train)
        self._rescale(before)
        return loss

    def _rescale(self, before: Tensor) -> None:
        """The two that were drawn keep the weight that they had together (section 3.2)."""
        drawn = torch.from_numpy(self.drawn).to(self.device)
        with torch.no_grad():
            weights = [x.masked_fill(~drawn, -torch.inf).logsumexp(1) for x in (self.alpha, before)]
            self.alpha -= drawn * (weights[0] - weights[1])[:, None]

    def _reinforce(self, val: Batch) -> Tensor:
        """∇ log p of a sampled path times its reward, less a moving average (section 3.3)."""
        path = draw_paths(self.logits.cpu(), self.generator(3))
        with torch.no_grad():
            loss = self.bilevel.loss(val, Mixture(self.alpha.new_ones(path.shape), path))
        reward = -float(loss)
        if self.target.limit:
            cost = self.target.fixed + float(self.target.costs[path].sum())
            reward -= self.penalty * abs(np.log(cost / self.target.limit))
        if np.isnan(self.baseline):
            self.baseline = reward
        log_p = self.logits.log_softmax(-1)[torch.from_numpy(path).to(self.device)].sum()
        self.bilevel.architecture.zero_grad()
        torch.autograd.backward(-(reward - self.baseline) * log_p)
        self.bilevel.architecture.step()
        self.baseline = BASELINE * self.baseline + (1 - BASELINE) * reward
        return loss

    # ---- the answer

    def scores(self) -> Floats:
        """Log-probabilities, less what keeps the best of all layers to the target."""
        log_p = self.logits.detach().log_softmax(-1).cpu().double().numpy()
        return self.target.within(log_p)

    def epoch_metrics(self, search: Search) -> dict[str, float]:
        p = self.logits.detach().softmax(-1).cpu().double().numpy()
        entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(-1).mean()
        expected = self.net.fixed + (p * self.net.costs).sum()
        metrics = {"expected_madds": float(expected), "entropy": float(entropy)}
        if self.target_latency:
            expected = self.target.fixed + (p * self.target.costs).sum()
            metrics["expected_latency"] = float(expected)
        return metrics

    def memory(self) -> dict[str, Any]:
        return {"baseline": None if np.isnan(self.baseline) else self.baseline}

    def remember(self, memory: dict[str, Any]) -> None:
        self.baseline = float("nan") if memory["baseline"] is None else memory["baseline"]
