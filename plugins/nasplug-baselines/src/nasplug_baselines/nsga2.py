"""NSGA-II: elitist evolution by non-dominated sorting."""

from __future__ import annotations

import numpy as np

from nasplug import Archs, Float, Int, Method, Region, Search, Trials, hookimpl


class NSGA2(Method):
    """NSGA-II: evolution for several objectives, by front and crowding distance.

    With one objective it is an elitist genetic algorithm.
    """

    pareto = True
    paper = "Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, TEC 2002"

    population = Int(20, low=4, high=1000, log=True, doc="how many archs survive a generation")
    crossover = Float(0.9, low=0.0, high=1.0, doc="share of children that have two parents")

    def setup(self, search: Search) -> None:
        self.alive = np.empty((0, search.space.d), search.space.dtype)  # the population, P_t
        self.born: list[Archs] = []  # its children so far, Q_t

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Archs:
        n = max(search.wanted, self.population - len(self.born))
        if not len(self.alive):
            return subspace.sample(n, search.rng)
        rng, parents = search.rng, self.alive[self.parents(search, 2 * n)].reshape(2, n, -1)
        mixed = rng.random((n, 1)) < self.crossover
        from_second = mixed & (rng.random(parents[0].shape) < 0.5)
        children = np.where(from_second, parents[1], parents[0])
        inside = subspace.contains(children)
        return subspace.mutate(np.where(inside[:, None], children, parents[0]), rng)

    def parents(self, search: Search, n: int) -> np.ndarray:
        """(n,) members of the population, each the better one of two drawn."""
        scores = search.scores(self.alive)
        rivals = search.rng.integers(len(self.alive), size=(n, 2))
        return rivals[np.arange(n), scores[rivals].argmax(1)]

    @hookimpl
    def update(self, search: Search, trials: Trials) -> None:
        self.born.extend(trials.archs)
        if len(self.born) >= self.population:
            everyone = search.space.unique(np.concatenate([self.alive, np.array(self.born)]))
            order = np.argsort(-search.scores(everyone), kind="stable")
            self.alive, self.born = everyone[order[: self.population]], []
