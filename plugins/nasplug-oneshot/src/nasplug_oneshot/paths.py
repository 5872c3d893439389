"""What paths cost: a limit, on multiply-adds or latency, that methods can be told."""

from __future__ import annotations

from typing import Any

import numpy as np

from nasplug import Archs, ArchSet, NasplugError, Region
from nasplug.nn import Bools, Floats, Supernet


class Target:
    """A limit on the multiply-adds of archs; 0 for none.

    costs: (D, O), what each choice adds to `fixed`. NasplugError if even the smallest arch of the
    region has more.
    """

    name = "target_madds"

    def __init__(self, net: Supernet, mask: Bools, region: Region, limit: float) -> None:
        self.net, self.mask, self.region, self.limit = net, mask, region, limit
        self.costs, self.fixed = self.choice_costs()
        if limit and (least := self._least()) > limit:
            raise NasplugError(
                f"{self.name}={limit:g} is below the smallest network, which has {least:.4g}"
            )

    def of(self, archs: Archs) -> Floats:
        """(n, d) -> (n,): what some archs cost."""
        return self.net.space.flops(archs)

    def choice_costs(self) -> tuple[Floats, float]:
        """`costs` and `fixed`."""
        return self.net.costs, self.net.fixed

    def allows(self, archs: Archs) -> Bools:
        """(n, d) -> (n,)."""
        if not self.limit:
            return np.ones(len(archs), bool)
        return np.asarray(self.of(archs) <= self.limit)

    def _least(self) -> float:
        """What the smallest arch costs."""
        if isinstance(self.region, ArchSet):
            return float(self.of(self.region.archs).min())
        return self._of(-self.costs)

    def _of(self, scores: Floats) -> float:
        """What the arch with the highest scores costs."""
        arch = self.net.select(np.where(self.mask, scores, -np.inf), self.region)
        return float(self.of(arch[None])[0])

    def within(self, scores: Floats) -> Floats:
        """(D, O) scores -> (D, O): such that the best choices together come to the target.

        The largest sum of scores at the target, by its Lagrangian: scores - μ costs for the
        smallest μ that stays below, found by bisection. It is negative where the best choices
        are cheaper; where even the costliest are, the scores are as they were.
        """
        if not self.limit or self._of(self.costs) <= self.limit:
            return scores
        costs = self.costs
        low, high = -1 / costs.max(), 1 / costs.max()
        while self._of(scores - high * costs) > self.limit:
            high *= 2
        while self._of(scores - low * costs) <= self.limit:
            low *= 2
        for _ in range(60):
            middle = (low + high) / 2
            fits = self._of(scores - middle * costs) <= self.limit
            low, high = (low, middle) if fits else (middle, high)
        return scores - high * costs


class LatencyTarget(Target):
    """A limit on the latency of archs, in ms by a table; NasplugError if there is none, or if the
    supernet is not made of the space's decisions."""

    name = "target_latency"

    def __init__(
        self, net: Supernet, mask: Bools, region: Region, limit: float, latency: Any
    ) -> None:
        if not latency.known:
            raise NasplugError(
                "target_latency is kept by a table: nasplug.search(..., latency='table.json'), "
                "--latency FILE; `nasplug latency-table` makes one"
            )
        self.of = latency
        super().__init__(net, mask, region, limit)

    def choice_costs(self) -> tuple[Floats, float]:
        """What a choice adds to the path of the first choices."""
        paths = np.arange(self.mask.shape[1]) == self.mask.argmax(1)[:, None]
        places = np.argwhere(self.mask)
        paths = np.repeat(paths[None], 1 + len(places), 0)
        for path, (i, k) in zip(paths[1:], places, strict=True):
            path[i] = np.arange(len(path[i])) == k
        archs = np.array([self.net.select(path.astype(float), self.region) for path in paths])
        if not np.array_equal(self.net.chosen(archs), paths):
            raise NasplugError(
                f"a table of latencies cannot be summed along the paths of {self.net.space.name}, "
                "whose archs leave edges out: take target_madds"
            )
        times = self.of.fixed + self.of.costs[np.arange(archs.shape[1]), archs].sum(1)
        costs = np.zeros(self.mask.shape)
        costs[self.mask] = times[1:] - times[0]
        return costs, float(times[0])
