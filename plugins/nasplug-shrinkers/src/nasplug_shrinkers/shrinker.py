"""Shrinker: score a random sample, fit a predictor on it, shrink by what it predicts."""

from __future__ import annotations

from nasplug import (
    Archs,
    Int,
    Mask,
    Method,
    NasplugError,
    Region,
    Search,
    Selection,
    Source,
    Space,
    Subspace,
    best_trials,
    hookimpl,
)
from nasplug.analysis import FEWEST, Predictor, predictor, report_search

SELECTED = 10  # archs that are ranked at the end
SAMPLE = 2000  # archs of a region that a mean prediction is taken of


class Shrinker(Method):
    """Spends the whole budget on a random sample; a subclass says in `shrink` what is left."""

    size = Int(350, low=1, high=100_000_000, log=True, tunable=False, doc="archs left at the end")
    predictor = Source("xgboost", doc="xgboost, forest or mlp; xgboost+params+flops")

    def setup(self, search: Search) -> None:
        search.allows(search.region.sample(1, 0))  # refuses limits that it cannot keep to
        self.model = predictor(self.predictor, search.space, int(search.rng.integers(2**31)))

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Archs:
        """Archs up to isomorphism, so that none is scored twice."""
        archs = subspace.sample(max(FEWEST, search.remaining), search.rng)
        return search.region.distinct(archs)

    @hookimpl
    def select_final(self, search: Search) -> Selection:
        self.model.fit(*search.trials.scored)
        subspace = self.shrink(search, self.model)
        quality = report_search(search, subspace, self.model)
        best = best_trials(search.trials, SELECTED)
        return Selection(best, subspace, files={"space.json": quality})

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
