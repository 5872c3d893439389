"""What both methods share: the supernet of a space of layers, and what its paths cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nasplug import NasplugError, Search

if TYPE_CHECKING:
    from nasplug.nn.chain import ChainSupernet
    from nasplug.nn.data import Images
    from nasplug.nn.mixed import Bools

Floats = npt.NDArray[np.float64]


def chain_supernet(search: Search, images: Images, seed: int) -> ChainSupernet:
    """Every choice of every layer of the region, freshly initialised, where the images are."""
    from nasplug.nn.chain import ChainSupernet, layers_of, skeleton_for
    from nasplug.nn.training import initialise, place

    layers = layers_of(search.region)
    skeleton = skeleton_for(layers.space, images)  # type: ignore[arg-type]  # layers_of sees to it
    return place(initialise(lambda: ChainSupernet(layers, skeleton), seed), images.mean.device)


class MAdds:
    """Multiply-adds of paths: `fixed` and what each choice of each layer adds, (L, K)."""

    def __init__(self, net: ChainSupernet, allowed: Bools) -> None:
        self.costs, self.allowed = net.costs, allowed
        self.fixed = float(net.space.skeleton.cost()[1])

    def of(self, index: npt.NDArray[np.integer]) -> Floats:
        """(n, L) which choice of each layer -> (n,)."""
        return self.fixed + self.costs[np.arange(len(self.costs)), index].sum(-1)

    def reachable(self, target: float) -> None:
        """NasplugError if even the smallest path has more."""
        least = self.fixed + np.where(self.allowed, self.costs, np.inf).min(1).sum()
        if target and target < least:
            raise NasplugError(
                f"target_madds={target:g} is below the smallest network, which has {least:.4g}"
            )

    def within(self, scores: Floats, target: float) -> Floats:
        """(L, K) scores -> (L, K): such that the best of each layer together keep to the target.

        The largest sum of scores under the limit, by its Lagrangian: scores - μ costs for the
        smallest μ that will do, found by bisection.
        """
        scores = np.where(self.allowed, scores, -np.inf)

        def total(mu: float) -> float:
            return float(self.of((scores - mu * self.costs).argmax(1)))

        if not target or total(0.0) <= target:
            return scores
        low, high = 0.0, 1 / self.costs.max()
        while total(high) > target:
            low, high = high, 2 * high
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if total(middle) > target else (low, middle)
        return scores - high * self.costs
