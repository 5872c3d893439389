"""Paths of a supernet: how they are drawn where all are trained alike, and what they cost, by a
limit on multiply-adds or latency that methods can be told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from nasplug import Archs, ArchSet, Ball, NasplugError, Region, Search
from nasplug.nn import Batch, Bools, Floats, Mixture, Oneshot, Supernet, mixed_seed

SCORED = 5000  # validation images that an arch is scored on
NEAR = 0.05  # of a target: how far below it an arch may stay


class SinglePaths(Oneshot):
    """A supernet whose weights are learned along single paths, drawn and not learned.

    Uniform paths are archs of the region. Fair ones (Chu et al., FairNAS, ICCV 2021) have different
    choices of each decision, so that each choice is trained once per step.
    """

    lr = replace(Oneshot.lr, default=0.1)
    arch_lr, warmup = 0.0, 0  # nothing but the weights is learned by gradient
    mixes = False

    @property
    def fair(self) -> bool:
        """Whether paths are fair; else they are uniform."""
        raise NotImplementedError

    def start(self, search: Search) -> list[Tensor]:
        self.logits = self.parameter(*self.mask.shape, spread=0.0)  # uniform, and stay so
        return [self.logits]

    def choices_of(self, region: Region) -> Bools:
        """Any region will do where paths are archs of it; fair ones need a product of choices."""
        if not isinstance(region, ArchSet | Ball):
            return super().choices_of(region)
        if self.fair:
            raise NasplugError(
                "fair paths train each choice of a decision once per step, and paths of such "
                f"choices are not all in a {region.describe()}: take uniform ones"
            )
        if isinstance(region, ArchSet):
            return self.net.chosen(region.archs).any(0)
        return self.net.exists

    def mixture(self) -> Mixture:
        return self._paths(1)[0]

    def architecture_step(self, val: Batch, train: Batch) -> None:
        """Paths are not learned."""

    def weight_step(self, train: Batch) -> Tensor:
        return self.bilevel.weight_step(train, self._paths(self.at_once))

    @property
    def at_once(self) -> int:
        """How many paths a step has."""
        return int(self.mask.sum(1).max()) if self.fair else 1

    def _paths(self, n: int) -> list[Mixture]:
        """n paths for this step."""
        rng = np.random.default_rng(mixed_seed(self.seed, self.step, 2))
        masks = self._fair(n, rng) if self.fair else self.net.chosen(self.draw(n, rng))
        ones = self.logits.detach().exp()
        return [Mixture(ones, mask) for mask in masks]

    def draw(self, n: int, rng: np.random.Generator) -> Archs:
        """(n, d) archs whose paths are trained."""
        return self.handed.sample(n, rng)

    def _fair(self, n: int, rng: np.random.Generator) -> Bools:
        """(n, D, O): different choices of each decision, as far as it has many."""
        lots = np.where(self.mask, rng.random(self.mask.shape), 2.0)
        order, counts = lots.argsort(1), self.mask.sum(1)
        rows = np.arange(len(counts))
        masks = np.zeros((n, *self.mask.shape), bool)
        for i, mask in enumerate(masks):
            mask[rows, order[rows, i % counts]] = True
        return masks

    def score(self, arch: Archs) -> float:
        """With inherited weights, and batch norms recalibrated for this arch."""
        return self.net.inherited_scores(arch, self.images, [self.images.val], SCORED)[0]


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
        are cheaper; where even the costliest are, the scores are as they were. No μ may come
        near the target: then single decisions are made costlier.
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
        return self._filled(np.where(self.mask, scores - high * costs, -np.inf))

    def _filled(self, scores: Floats) -> Floats:
        """With choices put first that cost more, one at a time and the least loss of score first,
        until the best choices are `NEAR` the target, or none of these stays below."""
        while (cost := self._of(scores)) < (1 - NEAR) * self.limit:
            best = scores.max(1, keepdims=True)
            dearer = self.costs > np.take_along_axis(self.costs, scores.argmax(1)[:, None], 1)
            losses = np.where(self.mask & dearer, best - scores, np.inf)
            for place in np.argsort(losses, axis=None)[: np.isfinite(losses).sum()]:
                i, k = np.unravel_index(place, losses.shape)
                changed = scores.copy()
                changed[i, k] = np.nextafter(best[i, 0], np.inf)
                if cost < self._of(changed) <= self.limit:
                    scores = changed
                    break
            else:
                break
        return scores


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
