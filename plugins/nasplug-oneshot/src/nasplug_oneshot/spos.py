"""SPOS: "Single Path One-Shot Neural Architecture Search with Uniform Sampling" (Guo et al., ECCV
2020), and the fair sampling of "FairNAS" (Chu et al., ICCV 2021)."""

from __future__ import annotations

import time

import numpy as np

from nasplug import (
    Archs,
    Choice,
    Float,
    Int,
    Region,
    Search,
    Selection,
    Trials,
    best_trials,
    hookimpl,
)
from nasplug.nn import SUPERNET, fixed_threads
from nasplug_oneshot.paths import SinglePaths, Target

SELECTED = 10  # archs that are ranked at the end


class SPOS(SinglePaths):
    """SPOS: uniformly drawn paths train a supernet; evolution then searches it for the best.

    The budget counts the archs that evolution scores, each with the weights that it inherits and
    batch norms recalibrated for it.
    """

    paper = "Guo et al., Single Path One-Shot NAS with Uniform Sampling, ECCV 2020"
    problem = "manual-irb/digits"

    sampling = Choice(
        "uniform", choices=("uniform", "fair"),
        doc="a random path per step, or (FairNAS) as many paths as a layer has choices, so that "
        "each is trained once per step",
    )  # fmt: skip
    target_madds = Float(0.0, low=0, high=1e15, tunable=False, doc="multiply-adds; 0: no limit")
    population = Int(50, low=2, high=10_000, log=True, doc="archs in a generation")
    parents = Int(10, low=1, high=10_000, log=True, doc="the best so far that have children")
    mutation = Float(0.1, low=0, high=1, doc="share of the decisions that a mutation changes")

    def setup(self, search: Search) -> None:
        super().setup(search)
        self.target = Target(self.net, self.mask, self.handed, self.target_madds)
        self.total = self.epochs  # the budget is that of the evolution

    # ---- training

    @property
    def fair(self) -> bool:
        return self.sampling == "fair"

    def finish_epoch(self, search: Search) -> Trials:
        """No trial yet: training scores nothing."""
        epoch = self.step // self.per_epoch
        loss = np.mean(self.losses)
        self.losses.clear()
        search.activity = f"training, epoch {epoch} of {self.total}, loss {loss:.3f}"
        return search.candidates(np.empty((0, search.space.d), search.space.dtype))

    # ---- evolution

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Region | Archs:
        if self.step < self.total * self.per_epoch:
            return subspace
        search.activity = "evolution"
        children = self._children(search, subspace)
        if not len(children):
            search.stop("nothing new is in reach: every arch within the target has been scored")
            return search.trials.archs[:1]
        return children

    def _children(self, search: Search, region: Region) -> Archs:
        """A generation of archs: half by crossover, half by mutation, random where these lack."""
        n, rng = self.population, search.rng
        random = region.sample(20 * n, rng)
        generation = [self._fresh(search, region, random)]
        if np.isfinite(search.trials.scores).any():
            best = best_trials(search.trials, self.parents)
            mothers, fathers = best[rng.integers(len(best), size=(2, 10 * n))]
            crossed = np.where(rng.random(mothers.shape) < 0.5, mothers, fathers)
            changed = rng.random(mothers.shape) < self.mutation
            mutated = np.where(changed, random[: 10 * n], mothers)
            half = n // 2
            generation = [
                self._fresh(search, region, crossed)[:half],
                self._fresh(search, region, mutated)[: n - half],
                *generation,
            ]
        return search.space.unique(np.concatenate(generation))[:n]

    def _fresh(self, search: Search, region: Region, archs: Archs) -> Archs:
        """Those of some archs that are in the region, keep to the target and are not scored."""
        archs = search.space.unique(archs[region.contains(archs)])
        archs = archs[self.target.allows(archs)]
        return archs[~search.seen(archs)]

    @hookimpl
    def evaluate(self, search: Search, candidates: Trials | Region) -> Trials | None:
        if not isinstance(candidates, Trials):
            return super().evaluate(search, candidates)
        with fixed_threads(self.threads):
            for row in candidates.waiting.tolist():
                start = time.perf_counter()
                value = self.score(candidates.archs[row])
                candidates.tell(row, values=value, costs=time.perf_counter() - start)
        return candidates

    @hookimpl
    def select_final(self, search: Search) -> Selection:
        return Selection(best_trials(search.trials, SELECTED), files={SUPERNET: self.save})
