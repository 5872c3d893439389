"""Successive halving, in rounds (SHA) or asynchronously (ASHA)."""

from __future__ import annotations

import numpy as np

from nasplug import Archs, Int, Region, Search, Trials, hookimpl
from nasplug_baselines.halving import Halving


class SuccessiveHalving(Halving):
    """Successive halving: of many archs at a low fidelity the best go on to the next higher.

    With ``asynchronous=True`` it is ASHA (Li et al., A system for massively parallel hyperparameter
    tuning, MLSys 2020): no rung waits for others.
    """

    asynchronous = True
    paper = "Jamieson and Talwalkar, Non-stochastic best arm identification, AISTATS 2016"

    n = Int(
        0, low=0, high=1_000_000, tunable=False,
        doc="archs on the first rung; 0: as many as leave one at the full fidelity",
    )  # fmt: skip

    def setup(self, search: Search) -> None:
        super().setup(search)
        self.told: list[dict[bytes, tuple[float, Archs]]] = [{} for _ in self.fidelities]
        self.promoted: set[tuple[bytes, int]] = set()

    def bracket(self) -> tuple[int, int]:
        return self.n or self.eta**self.top, 0

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Trials:
        if not search.asynchronous:
            return super().propose(search, subspace)
        jobs = [self.get_job(search, subspace) for _ in range(search.wanted)]
        return search.candidates([arch for arch, _ in jobs], [rung for _, rung in jobs])

    def get_job(self, search: Search, subspace: Region) -> tuple[Archs, int]:
        """Algorithm 2 of ASHA: an arch that may be promoted, or else a new one; its fidelity."""
        for k in reversed(range(self.top)):
            told = self.told[k]
            by_score = sorted(told, key=lambda key: -told[key][0])
            for key in by_score[: len(told) // self.eta]:  # top_k(rung k, |rung k| / η)
                score, arch = told[key]
                if (key, k) not in self.promoted and np.isfinite(score):
                    self.promoted.add((key, k))
                    return arch, self.fidelities[k + 1]
        return subspace.sample(1, search.rng)[0], self.fidelities[0]

    @hookimpl
    def update(self, search: Search, trials: Trials) -> None:
        if not search.asynchronous:
            super().update(trials)
            return
        scores, fidelities = trials.scores.tolist(), trials.fidelities.tolist()
        for arch, score, fidelity in zip(trials.archs, scores, fidelities, strict=True):
            k, key = self.fidelities.index(fidelity), arch.tobytes()
            self.told[k][key] = score, arch
            self.promoted.add((key, k - 1))  # also where another process did
