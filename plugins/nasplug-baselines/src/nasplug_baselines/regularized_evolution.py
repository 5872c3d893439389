"""Regularized evolution: the oldest dies, not the worst."""

from __future__ import annotations

from collections import deque

import numpy as np

from nasplug import Archs, Int, Method, Region, Search, Trials, hookimpl


class RegularizedEvolution(Method):
    """Regularized evolution: mutate the best of a random tournament; the oldest dies."""

    asynchronous = True
    paper = "Real et al., Regularized evolution for image classifier architecture search, AAAI 2019"

    population = Int(10, low=2, high=1000, log=True, doc="how many archs live at a time")
    tournament = Int(
        3, low=1, high=1000, log=True, at_most="population",
        doc="how many of them compete to be a parent",
    )  # fmt: skip

    def setup(self, search: Search) -> None:
        self.alive: deque[tuple[Archs, float]] = deque(maxlen=self.population)

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Archs:
        if len(self.alive) < self.population:
            return subspace.sample(search.wanted, search.rng)
        parents = [self.parent(search.rng) for _ in range(search.wanted)]
        return subspace.mutate(np.array(parents), search.rng)

    def parent(self, rng: np.random.Generator) -> Archs:
        """The best of a tournament."""
        rivals = rng.choice(self.population, self.tournament, replace=False)
        arch, _ = max((self.alive[i] for i in rivals), key=lambda member: member[1])
        return arch

    @hookimpl
    def update(self, trials: Trials) -> None:
        self.alive.extend(zip(trials.archs, trials.scores.tolist(), strict=True))
