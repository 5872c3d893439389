"""Regularized evolution: the oldest dies, not the worst."""

from __future__ import annotations

from collections import deque

import numpy as np

from nasplug import Archs, Int, Method, Region, Search, Trials, hookimpl


class RegularizedEvolution(Method):
    """Regularized evolution: mutate the best of a random tournament; the oldest dies."""

    asynchronous = True
    pareto = True  # of several objectives, the tournament is by front and crowding distance
    paper = "Real et al., Regularized evolution for image classifier architecture search, AAAI 2019"

    population = Int(10, low=2, high=1000, log=True, doc="how many archs live at a time")
    tournament = Int(
        3, low=1, high=1000, log=True, at_most="population",
        doc="how many of them compete to be a parent",
    )  # fmt: skip

    def setup(self, search: Search) -> None:
        self.alive: deque[Archs] = deque(maxlen=self.population)

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Archs:
        if len(self.alive) < self.population:
            return subspace.sample(search.wanted, search.rng)
        alive = np.array(self.alive)
        scores = search.scores(alive)
        parents = [self.parent(scores, search.rng) for _ in range(search.wanted)]
        return subspace.mutate(alive[parents], search.rng)

    def parent(self, scores: np.ndarray, rng: np.random.Generator) -> int:
        """The best of a tournament."""
        rivals = rng.choice(self.population, self.tournament, replace=False)
        return int(rivals[scores[rivals].argmax()])

    @hookimpl
    def update(self, trials: Trials) -> None:
        self.alive.extend(trials.archs)
