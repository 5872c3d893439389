"""LISSNAS: "Locality-based Iterative Search Space Shrinkage for Neural Architecture Search" (Gopal,
Sridhar et al.). Section numbers are the paper's."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nasplug import (
    ENUMERABLE,
    Archs,
    ArchSet,
    Choice,
    Float,
    Hyperparameter,
    Int,
    Method,
    NasplugError,
    Region,
    Search,
    Selection,
    Source,
    Space,
    best_trials,
    hookimpl,
)
from nasplug.analysis import XGBoost, farthest, measure, predictor, report_search, third
from nasplug_lissnas.shrink import WORK, Pockets, Shrunk

SELECTED = 10  # archs that are ranked at the end
DRAWN = 1000  # archs drawn at a time, at least
TRIES = 20  # draws to find as many distinct archs as asked
FEWEST = 20  # scored archs that a space can be shrunk by


class LISSNAS(Method):
    """LISSNAS: shrinks the space to pockets around the archs that a predictor finds best.

    The first trials are a random sample, on which the predictor is fitted; the others are archs of
    the pockets, on which it is fitted again. The paper fits once, on a sample alone: initial=1.
    It leaves open how many seeds there are (as many as fill `size`), how many neighbors each has
    and when to fit again; the defaults are those that did best on the tables (see the README).
    """

    paper = "Gopal et al., LISSNAS: Locality-based Iterative Search Space Shrinkage, IJCAI 2023"

    ablations = {  # noqa: RUF012 - read only
        "no neighbors": {"neighbors": "none"},  # Table 10
        "without locality": {"neighbors": "random"},  # Table 10
    }

    size = Int(
        350, low=0, high=100_000_000, tunable=False,
        doc="archs left at the end; 0: whatever the best tenth and their neighbors come to",
    )  # fmt: skip
    sample = Int(2000, low=10, high=100_000_000, log=True, doc="archs that the seeds come from")
    pocket = Int(10, low=1, high=1000, log=True, doc="neighbors kept of each seed")
    distance = Source(
        "third",
        doc="neighbors are at most this many edits away: a number, third (of the decisions, "
        "section 4.3) or rwa (as far as predicted scores are correlated)",
    )
    initial = Float(0.4, low=0.01, high=1.0, doc="share of the budget for the random sample")
    rounds = Int(12, low=1, high=1000, doc="times to score archs of the pockets and fit again")
    predictor = Source(
        "xgboost",
        doc="xgboost, forest, mlp; with what the space counts, xgboost+params+flops; or a fitted "
        "XGBoost model's file",
    )
    neighbors = Choice(
        "near", choices=("near", "random", "none", "all"),
        doc="of seeds: near ones; ablations: random archs, none (the best of a sample), "
        "all (the best of the whole space)",
    )  # fmt: skip

    @classmethod
    def ranges(cls, space: Space) -> dict[str, Hyperparameter[Any]]:
        """No neighbors=all where there are too many archs to ask about each."""
        few = [one for one in cls.neighbors.choices if one != "all" or space.count <= ENUMERABLE]
        return {"neighbors": replace(cls.neighbors, choices=few)}

    def setup(self, search: Search) -> None:
        if search.budget < FEWEST:
            raise NasplugError(
                f"a space is shrunk by {FEWEST} scored archs or more; the budget is {search.budget}"
            )
        search.allows(search.region.sample(1, 0))  # refuses limits that it cannot keep to
        if self.neighbors == "all" and search.space.count > ENUMERABLE:
            raise NasplugError(
                f"neighbors=all asks about every arch, and {search.space.name} has "
                f"{search.space.count:.1e}; use near"
            )
        self.fixed = Path(str(self.predictor)).suffix in (".json", ".ubj")
        self.model = (
            XGBoost(search.space, path=self.predictor)
            if self.fixed
            else predictor(self.predictor, search.space, int(search.rng.integers(2**31)))
        )
        self.first = max(FEWEST, round(self.initial * search.budget))
        self.batch = max(1, -(-(search.budget - self.first) // self.rounds))
        self.threshold = _threshold(self.distance, search.space)
        self.shrunk: Shrunk | None = None

    @hookimpl
    def sample_space(self, search: Search) -> Region:
        """The current set of pockets."""
        if self.fixed and self.shrunk is None:
            self.shrink(search)
        return ArchSet(search.space, self.shrunk.archs) if self.shrunk else search.region

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Archs:
        """First a random sample, then the best-predicted archs of the pockets that are new."""
        if self.shrunk is None:
            return self.random_archs(search, self.first)
        pools = self.shrunk.archs, self.random_archs(search, 10 * self.batch)
        for archs in pools:
            new = archs[~search.seen(archs)]
            if len(new):
                return new[: self.batch]
        search.stop("nothing new is found: nearly every arch in reach has been scored")
        return self.shrunk.archs[:1]

    @hookimpl
    def update(self, search: Search) -> None:
        """Fit the predictor on all that was scored, and shrink anew."""
        if not self.fixed:
            self.model.fit(*search.trials.scored)
            self.shrink(search)

    @hookimpl
    def select_final(self, search: Search) -> Selection:
        """The shrunk space, and the best archs that were scored."""
        archs = self.shrunk.archs
        if len(archs) < self.size:
            warnings.warn(
                f"the shrunk space has {len(archs):,} archs instead of {self.size:,}: there are "
                "no more distinct ones that are allowed",
                stacklevel=2,
            )
        subspace = ArchSet(search.space, archs)
        quality = report_search(search, subspace, self.model, given=self.fixed)
        best = best_trials(search.trials, SELECTED)
        return Selection(best, subspace, files={"space.json": quality})

    def shrink(self, search: Search) -> None:
        """From a new sample of the space, the scored archs and the set so far."""
        space, rng = search.space, search.rng
        pockets = Pockets(
            space, self.model.predict, search.allows, self.size,
            self.pocket, self.threshold or measure(space, self.model.predict, seed=rng).suggested,
            locality=self.neighbors == "near",
        )  # fmt: skip
        if self.neighbors == "all":
            self.shrunk = pockets.best_of(space.all())
            return
        sample = self.random_archs(search, max(self.sample, 2 * min(self.size, WORK)))
        so_far = [self.shrunk.archs] if self.shrunk else []
        population = np.concatenate([search.trials.archs, *so_far, sample])
        if self.neighbors == "none":
            self.shrunk = pockets.best_of(population)
        else:
            self.shrunk = pockets.shrink(population, rng)

    def random_archs(self, search: Search, n: int) -> Archs:
        """n distinct archs of the region, no two isomorphic; fewer if no more are found."""
        archs = np.empty((0, search.space.d), search.space.dtype)
        for _ in range(TRIES):
            drawn = search.region.sample(max(n, DRAWN), search.rng)
            found = np.concatenate([archs, drawn])
            before, archs = len(archs), search.space.distinct(found)
            if len(archs) >= n or 0 < before == len(archs):
                return archs[:n]
        return archs


def _threshold(distance: Any, space: Space) -> int | None:
    """The largest number of edits between a seed and its neighbors; None to measure it."""
    if str(distance) == "rwa":
        return None
    if str(distance) == "third":
        return third(space)
    try:
        threshold = int(str(distance))
    except ValueError:
        raise NasplugError(
            f"distance is a number of edits, third or rwa; got {distance!r}"
        ) from None
    if not 1 <= threshold <= farthest(space):
        raise NasplugError(
            f"distance must be 1 to {farthest(space)} in {space.name}, got {threshold}"
        )
    return threshold
