"""Shrinking by ranks alone: of a sample, or of the whole space."""

from __future__ import annotations

import warnings

import numpy as np

from nasplug import ENUMERABLE, Archs, ArchSet, Int, NasplugError, Search, Subspace
from nasplug.analysis import Predictor
from nasplug_shrinkers.shrinker import Shrinker


class RandomShrink(Shrinker):
    """Random shrink: the best-predicted archs of a random sample (appendix H.1 of LISSNAS)."""

    paper = "Gopal et al., LISSNAS: Locality-based Iterative Search Space Shrinkage, IJCAI 2023"

    sample = Int(5000, low=10, high=100_000_000, log=True, doc="archs the predictor is asked about")

    def shrink(self, search: Search, model: Predictor) -> Subspace:
        return best(search, model, search.region.sample(self.sample, search.rng), self.size)


class TopN(Shrinker):
    """Plain top-N: the best-predicted archs of the whole space, where that can be listed."""

    def setup(self, search: Search) -> None:
        super().setup(search)
        if search.space.count > ENUMERABLE:
            raise NasplugError(
                f"{search.space.name} has {search.space.count:.1e} archs, too many to rank them "
                "all; use shrink-random"
            )

    def shrink(self, search: Search, model: Predictor) -> Subspace:
        return best(search, model, search.space.all(), self.size)


def best(search: Search, model: Predictor, archs: Archs, size: int) -> ArchSet:
    """The best-predicted of some archs."""
    archs = search.region.distinct(archs)
    if not len(archs):
        raise NasplugError(f"no arch of {search.region.describe()} keeps to the constraints")
    if len(archs) < size:
        warnings.warn(
            f"there are {len(archs):,} distinct archs to rank instead of {size:,}: all stay",
            stacklevel=2,
        )
    order = np.argsort(-model.predict(archs), kind="stable")[:size]
    return ArchSet(search.space, archs[order])
