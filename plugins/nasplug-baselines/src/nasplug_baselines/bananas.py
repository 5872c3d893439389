"""BANANAS: Bayesian optimisation with an ensemble of neural networks. Algorithm 1 of the paper;
what that leaves open is as in its authors' code, github.com/naszilla/naszilla."""

from __future__ import annotations

import numpy as np

from nasplug import Archs, Int, Method, Region, Search, hookimpl
from nasplug_baselines.networks import Networks

EDITS = 1.5  # of a mutant, on average: as in the authors' code on NAS-Bench-201
BEST = 5  # archs that are mutated, the best first, until there are mutants enough


class Bananas(Method):
    """BANANAS: of mutants of the best, an ensemble of networks picks by Thompson sampling."""

    paper = (
        "White et al., BANANAS: Bayesian optimization with neural architectures for neural "
        "architecture search, AAAI 2021"
    )

    initial = Int(10, low=2, high=100_000, log=True, doc="random archs at first: t_0")
    batch = Int(10, low=1, high=1000, log=True, doc="archs picked at a time: k")
    candidates = Int(100, low=1, high=100_000, log=True, doc="mutants to pick from: c")
    members = Int(5, low=2, high=50, tunable=False, doc="networks of the ensemble: M")

    def setup(self, search: Search) -> None:
        # The path encoding where the space has one, else its own.
        self.encode = getattr(search.space, "paths", search.space.features)

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Archs:
        archs, values = search.trials.scored
        if len(search.trials) < self.initial or len(values) < 2 or np.ptp(values) == 0:
            missing = self.initial - len(search.trials)
            return subspace.sample(max(search.wanted, missing), search.rng)
        mutants = self.mutants(search, subspace)
        ensemble = Networks(self.members, search.rng).fit(self.encode(archs), values)
        predicted = ensemble.predict(self.encode(mutants))  # (M, c)
        # Independent Thompson sampling: a draw of each from what the ensemble believes of it.
        drawn = search.rng.normal(predicted.mean(0), predicted.std(0))
        return mutants[np.argsort(-drawn)[: max(self.batch, search.wanted)]]

    def mutants(self, search: Search, subspace: Region) -> Archs:
        """(<= c, d) archs that were not scored, a few edits from the best; others if none are."""
        rng, d = search.rng, search.space.d
        order = np.argsort(-search.trials.scores, kind="stable")[:BEST]
        found = search.trials.archs[:0]
        for best in search.trials.archs[order]:
            edits = np.maximum(1, rng.binomial(d, min(1, EDITS / d), self.candidates))
            mutants = np.repeat(best[None], self.candidates, axis=0)
            for edit in range(edits.max()):
                rows = edits > edit
                mutants[rows] = subspace.mutate(mutants[rows], rng)
            found = search.space.distinct(np.concatenate([found, mutants]))
            found = found[~search.seen(found)]
            if len(found) >= self.candidates:
                return found[: self.candidates]
        return found if len(found) else subspace.sample(self.candidates, rng)
