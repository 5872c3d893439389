"""Regularized evolution: the oldest dies, not the worst."""

from __future__ import annotations

from collections import deque

from nasplug import Archs, Int, Method, Region, Search, Trials, hookimpl


class RegularizedEvolution(Method):
    """Regularized evolution: mutate the best of a random tournament; the oldest dies."""

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
            return subspace.sample(1, search.rng)
        rivals = search.rng.choice(self.population, self.tournament, replace=False)
        parent, _ = max((self.alive[i] for i in rivals), key=lambda member: member[1])
        return subspace.mutate(parent[None], search.rng)

    @hookimpl
    def update(self, trials: Trials) -> None:
        self.alive.extend(zip(trials.archs, trials.scores.tolist(), strict=True))
