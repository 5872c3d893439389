"""NSE-like: the choices come in segments; what the best archs of one do not use is left behind."""

from __future__ import annotations

import numpy as np

from nasplug import Int, Mask, Search, Subspace
from nasplug.analysis import Predictor
from nasplug_shrinkers.shrinker import SAMPLE, MaskShrinker

BEST = 0.05  # share of the sampled archs whose choices are inherited


class NSE(MaskShrinker):
    """NSE-like: evolves the space by segments, inheriting the choices that its best archs use."""

    paper = "Ci et al., Evolving Search Space for Neural Architecture Search, ICCV 2021"

    segments = Int(2, low=1, high=100, doc="parts that each decision's choices come in")

    def shrink(self, search: Search, model: Predictor) -> Subspace:
        space, rng = search.space, search.rng
        offered = self.choices
        dealt = np.where(offered, rng.random(offered.shape), np.inf).argsort(1).argsort(1)
        segment = dealt * self.segments // offered.sum(1, keepdims=True)  # of each choice
        inherited = np.zeros_like(offered)
        for number in range(self.segments):
            allowed = (inherited | (segment == number)) & offered
            use = self.use(model, Mask(space, allowed).sample(SAMPLE, rng), allowed)
            fair = use.sum(1, keepdims=True) / allowed.sum(1, keepdims=True)
            inherited = allowed & (use >= 0.5 * fair)
        # The least used choices go until the size is reached, as near as may be.
        mask = Mask(space, inherited)
        while (inherited.sum(1) > 1).any():
            droppable = inherited & (inherited.sum(1, keepdims=True) > 1)
            worst = np.unravel_index(np.where(droppable, use, np.inf).argmin(), use.shape)
            inherited[worst] = False
            smaller = Mask(space, inherited)
            if abs(np.log(smaller.size / self.size)) > abs(np.log(mask.size / self.size)):
                break
            mask = smaller
        return mask

    @staticmethod
    def use(model: Predictor, archs: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """(d, max cardinality): how many of the best-predicted archs use each choice."""
        scores = model.predict(archs)
        best = archs[scores >= np.quantile(scores, 1 - BEST)]
        return (best[:, :, None] == np.arange(allowed.shape[1])).sum(0) * allowed
