"""Shrinker: score a random sample, fit a predictor on it, shrink by what it predicts."""

from __future__ import annotations

from nasplug import (
    Int,
    Mask,
    Method,
    NasplugError,
    Search,
    Selection,
    Source,
    Space,
    Subspace,
    hookimpl,
)
from nasplug.predictors import FEWEST, Predictor, predictor, scored
from nasplug.quality import report_search
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
        search.allows(search.region.sample(1, 0))  # refuses limits that it cannot keep to
        self.model = predictor(self.predictor, search.space, int(search.rng.integers(2**31)))

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Archs:
        """Archs up to isomorphism, so that none is scored twice."""
        return distinct(search, subspace.sample(max(FEWEST, search.remaining), search.rng))

    @hookimpl
    def select_final(self, search: Search) -> Selection:
        self.model.fit(*scored(search))
        subspace = self.shrink(search, self.model)
        report_search(search, subspace, self.model)
        return Selection(best_trials(search.trials, SELECTED), subspace)

    def shrink(self, search: Search, model: Predictor) -> Subspace:
        raise NotImplementedError


class MaskShrinker(Shrinker):
    """A shrinker by choices: what it leaves is a product of some of them."""

    def setup(self, search: Search) -> None:
        super().setup(search)
        if search.constraints or not isinstance(search.region, Space | Mask):
            raise NasplugError(
                f"{search.method_name} leaves a product of choices, which cannot be kept to "
                "constraints or inside a set of archs; lissnas, shrink-top and shrink-random can"
            )
        region = search.region if isinstance(search.region, Mask) else Mask(search.space, {})
        self.choices = region.allowed  # (d, max cardinality): what the region offers


def distinct(search: Search, archs: Archs) -> Archs:
    """One of each class of isomorphs, where it first occurs; only what the search allows."""
    archs = archs[search.allows(archs)]
    canonical = search.space.canonical(archs)
    keys: dict[object, int] = {}
    for row, key in enumerate(search.space.keys(canonical)):
        keys.setdefault(key, row)
    return archs[list(keys.values())]
