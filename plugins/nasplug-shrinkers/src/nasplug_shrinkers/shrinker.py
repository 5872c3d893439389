"""Shrinker: score a random sample, fit a predictor on it, shrink by what it predicts."""

from __future__ import annotations

import numpy as np

from nasplug import Int, Method, Search, Selection, Source, State, Subspace, hookimpl
from nasplug.predictors import FEWEST, Predictor, predictor
from nasplug.selection import best_trials
from nasplug.space import Archs
from nasplug.subspace import Region

SELECTED = 10  # archs that are ranked at the end
SAMPLE = 2000  # archs of a region that a mean prediction is taken of


class Shrinker(Method):
    """Spends the whole budget on a random sample; a subclass says in `shrink` what is left."""

    size = Int(350, low=1, high=100_000_000, log=True, tunable=False, doc="archs left at the end")
    predictor = Source("xgboost", doc="xgboost, forest or mlp")

    def setup(self, search: Search) -> None:
        self.model = predictor(self.predictor, search.space, int(search.rng.integers(2**31)))

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Archs:
        """Archs up to isomorphism, so that none is scored twice."""
        return distinct(search, subspace.sample(max(FEWEST, search.remaining), search.rng))

    @hookimpl
    def select_final(self, search: Search) -> Selection:
        trials = search.trials
        known = np.flatnonzero(trials.states == State.COMPLETE)
        values = trials.values[known] if search.maximize else -trials.values[known]
        self.model.fit(trials.archs[known], values)
        return Selection(best_trials(trials, SELECTED), self.shrink(search, self.model))

    def shrink(self, search: Search, model: Predictor) -> Subspace:
        raise NotImplementedError


def distinct(search: Search, archs: Archs) -> Archs:
    """One of each class of isomorphs, where it first occurs; only archs of the region."""
    archs = archs[search.region.contains(archs)]
    canonical = search.space.canonical(archs)
    keys: dict[object, int] = {}
    for row, key in enumerate(search.space.keys(canonical)):
        keys.setdefault(key, row)
    return archs[list(keys.values())]
