"""Local search: hill climbing with restarts."""

from __future__ import annotations

from typing import Any

import numpy as np

from nasplug import Archs, Choice, Method, Region, Search, Trials, hookimpl


class LocalSearch(Method):
    """Local search: climb from neighbor to neighbor; from a local optimum, restart at random.

    Of several objectives, Pareto local search (Paquete et al., 2004): the neighbors of the front's
    archs are tried, one arch after the other, those far from others on the front first.
    """

    pareto = True
    paper = "White et al., Exploring the loss landscape in neural architecture search, UAI 2021"

    step = Choice(
        "best",
        choices=("best", "first"),
        doc="move to the best of all neighbors (the paper's algorithm), or to the first better one",
    )

    def setup(self, search: Search) -> None:
        self.queue = np.empty((0, search.space.d), search.space.dtype)  # those still to try
        self.better: Archs | None = None  # the best neighbor so far that is better
        self.height = -np.inf  # its score
        self.explored: set[Any] = set()  # keys of archs whose neighbors were tried

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Archs:
        if search.objectives is not None and search.objectives.scalarise == "pareto":
            return self.around_front(search, subspace)
        if not len(self.queue) and self.better is None:
            self.height = -np.inf
            return subspace.sample(search.wanted, search.rng)
        n = search.wanted
        proposed, self.queue = self.queue[:n], self.queue[n:]
        return proposed

    def around_front(self, search: Search, subspace: Region) -> Archs:
        """Neighbors that are new of the best-ranked arch that was not explored."""
        if not len(self.queue):
            trials = search.trials
            keys = search.keys(trials.archs)
            order = [
                row
                for row in np.argsort(-trials.scores, kind="stable").tolist()
                if keys[row] not in self.explored
            ]
            if not order:
                return subspace.sample(search.wanted, search.rng)
            self.explored.add(keys[order[0]])
            self.queue = search.rng.permutation(search.region.neighbors(trials.archs[order[0]]))
        n = search.wanted
        proposed, self.queue = self.queue[:n], self.queue[n:]
        return proposed

    @hookimpl
    def update(self, search: Search, trials: Trials) -> None:
        for arch, score in zip(trials.archs, trials.scores.tolist(), strict=True):
            if score > self.height:
                self.better, self.height = arch, score
        if self.better is not None and (self.step == "first" or not len(self.queue)):
            self.queue = search.rng.permutation(search.region.neighbors(self.better))
            self.better = None
