"""Random search."""

from __future__ import annotations

from nasplug import Archs, Int, Method, Region, Search, hookimpl


class Random(Method):
    """Random search: uniform samples of the region."""

    asynchronous = True
    paper = "Bergstra and Bengio, Random search for hyper-parameter optimization, JMLR 2012"

    batch = Int(1, low=1, high=100_000, tunable=False, doc="archs proposed in one go")

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Archs:
        n = max(self.batch, search.wanted)
        return subspace.sample(min(n, search.remaining), search.rng)
