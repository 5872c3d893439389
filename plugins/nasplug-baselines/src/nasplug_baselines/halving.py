"""Rungs that archs climb: what successive halving and Hyperband have in common."""

from __future__ import annotations

import numpy as np

from nasplug import Archs, Int, Method, Region, Search, Trials, hookimpl


class Halving(Method):
    """In brackets, one after the other: of the archs of a rung the best go on to the next."""

    eta = Int(
        3, low=2, high=16,
        doc="one of so many goes on to the next rung, of so many times the fidelity",
    )  # fmt: skip

    def setup(self, search: Search) -> None:
        _, low, high = search.fidelity
        self.top = 0  # s_max: the rung of the full fidelity
        while low * self.eta ** (self.top + 1) <= high:
            self.top += 1
        self.fidelities = [round(high / self.eta ** (self.top - k)) for k in range(self.top + 1)]
        self.rung = self.top
        self.queue = np.empty((0, search.space.d), search.space.dtype)  # of this rung, to be scored
        self.archs: list[Archs] = []  # of this rung, scored
        self.scores: list[float] = []

    def bracket(self) -> tuple[int, int]:
        """(n, rung): how many archs the next bracket begins with, and on which rung."""
        raise NotImplementedError

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Trials:
        if not len(self.queue):
            self.climb(search, subspace)
        proposed, self.queue = np.split(self.queue, [search.wanted])
        return search.candidates(proposed, self.fidelities[self.rung])

    def climb(self, search: Search, subspace: Region) -> None:
        """To the next rung with the best of this one, or into the next bracket."""
        scores = np.array(self.scores)
        best = np.argsort(-scores, kind="stable")[: max(1, len(scores) // self.eta)]  # top_k
        best = best[np.isfinite(scores[best])]  # what has failed goes nowhere
        if len(best) and self.rung < self.top:
            self.queue, self.rung = np.array(self.archs)[best], self.rung + 1
        else:
            n, self.rung = self.bracket()
            n = min(n, search.remaining)  # of more none would be scored
            self.queue = subspace.sample(n, search.rng)  # get_hyperparameter_configuration(n)
        self.archs, self.scores = [], []

    @hookimpl
    def update(self, trials: Trials) -> None:
        self.archs.extend(trials.archs)
        self.scores.extend(trials.scores.tolist())
