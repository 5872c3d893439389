"""What paths cost: multiply-adds as a limit that both methods can be told."""

from __future__ import annotations

import numpy as np

from nasplug import Archs, NasplugError, Region
from nasplug.nn import Bools, Floats, Supernet


class Target:
    """A limit on the multiply-adds of archs; 0 for none.

    NasplugError if even the smallest arch of the region has more.
    """

    def __init__(self, net: Supernet, mask: Bools, region: Region, madds: float) -> None:
        self.net, self.mask, self.region, self.madds = net, mask, region, madds
        if madds and (least := self._of(-net.costs)) > madds:
            raise NasplugError(
                f"target_madds={madds:g} is below the smallest network, which has {least:.4g}"
            )

    def allows(self, archs: Archs) -> Bools:
        """(n, d) -> (n,)."""
        if not self.madds:
            return np.ones(len(archs), bool)
        return np.asarray(self.net.space.flops(archs) <= self.madds)

    def _of(self, scores: Floats) -> float:
        """The multiply-adds of the arch with the highest scores."""
        arch = self.net.select(np.where(self.mask, scores, -np.inf), self.region)
        return float(self.net.space.flops(arch[None])[0])

    def within(self, scores: Floats) -> Floats:
        """(D, O) scores -> (D, O): such that the best choices together come to the target.

        The largest sum of scores at the target, by its Lagrangian: scores - μ costs for the
        smallest μ that stays below, found by bisection. It is negative where the best choices
        are cheaper; where even the costliest are, the scores are as they were.
        """
        if not self.madds or self._of(self.net.costs) <= self.madds:
            return scores
        costs = self.net.costs
        low, high = -1 / costs.max(), 1 / costs.max()
        while self._of(scores - high * costs) > self.madds:
            high *= 2
        while self._of(scores - low * costs) <= self.madds:
            low *= 2
        for _ in range(60):
            middle = (low + high) / 2
            fits = self._of(scores - middle * costs) <= self.madds
            low, high = (low, middle) if fits else (middle, high)
        return scores - high * costs
