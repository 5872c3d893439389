"""REINFORCE over independent decisions."""

from __future__ import annotations

import numpy as np

from nasplug import Archs, Float, Method, Region, Search, Trials, hookimpl

TRIES = 100  # samples of the policy before one is drawn from the region itself


class Reinforce(Method):
    """REINFORCE: a softmax per decision, learned by policy gradient with a moving baseline."""

    asynchronous = True
    paper = "Williams, Simple statistical gradient-following algorithms, Machine Learning 1992"

    lr = Float(0.1, low=1e-3, high=1.0, log=True, doc="learning rate of Adam")
    decay = Float(0.9, low=0.0, high=0.999, doc="of the moving-average baseline")

    def setup(self, search: Search) -> None:
        cardinalities = search.space.cardinalities
        exists = np.arange(cardinalities.max()) < cardinalities[:, None]
        self.logits = np.where(exists, 0.0, -np.inf)  # (d, max cardinality)
        self.baseline: float | None = None
        self.adam = np.zeros((2, *self.logits.shape))  # first and second moments
        self.steps = 0

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Archs:
        n = search.wanted
        gumbel = search.rng.gumbel(size=(TRIES * n, *self.logits.shape))
        archs = (self.logits + gumbel).argmax(-1).astype(search.space.dtype)
        archs = archs[subspace.contains(archs)]
        if search.repeats == "free":  # but a policy that has collapsed proposes nothing else
            archs = archs[~search.seen(archs)]
        return archs[:n] if len(archs) else subspace.sample(n, search.rng)

    @hookimpl
    def update(self, search: Search, trials: Trials) -> None:
        scores = trials.scores
        for arch, reward in zip(
            trials.archs[np.isfinite(scores)], scores[np.isfinite(scores)], strict=True
        ):
            if self.baseline is None:
                self.baseline = reward
            advantage = reward - self.baseline
            self.baseline = self.decay * self.baseline + (1 - self.decay) * reward
            chosen = np.zeros_like(self.logits)
            chosen[np.arange(search.space.d), arch] = 1.0
            self.ascend(advantage * (chosen - self.probabilities()))

    def probabilities(self) -> np.ndarray:
        """(d, max cardinality) the softmax of each decision."""
        weights = np.exp(self.logits - self.logits.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    def ascend(self, gradient: np.ndarray, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        """One step of Adam (Kingma and Ba, 2015)."""
        self.steps += 1
        self.adam[0] += (1 - betas[0]) * (gradient - self.adam[0])
        self.adam[1] += (1 - betas[1]) * (gradient**2 - self.adam[1])
        first = self.adam[0] / (1 - betas[0] ** self.steps)
        second = self.adam[1] / (1 - betas[1] ** self.steps)
        self.logits += self.lr * first / (np.sqrt(second) + 1e-8)
