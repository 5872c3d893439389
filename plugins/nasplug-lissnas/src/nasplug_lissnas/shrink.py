"""The shrinkage of LISSNAS, section 4.3 of the paper, with a predictor that is given.

Two steps in turn. Seed search: the archs of the current set with the best predicted scores.
Neighbor generation: a pocket around each of them. The seeds with their pockets are the next set;
if its mean predicted score no longer rises, the set before it is the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nasplug import Archs, NasplugError, Space

Scores = npt.NDArray[np.floating[Any]]
Rows = npt.NDArray[np.intp]

DRAWS = 3  # neighbors looked at for each one kept
BEST = 0.1  # share of a set that are seeds, where its size is an outcome
WORK = 20_000  # archs of a set while it is iterated; only the last one is larger, if wanted
PLATEAU = 0.02  # a rise below this share of the first one is none


@dataclass
class Shrunk:
    """A set of archs, best first, with their predicted scores."""

    archs: Archs
    scores: Scores
    means: list[float]  # the mean predicted score of each iteration's set, the last one kept last
    queries: int  # predictions made


@dataclass
class Pockets:
    """How a set is made of seeds and their neighbors.

    predict: (n, d) archs -> (n,) scores, higher better.
    allowed: (n, d) -> (n,) booleans, which archs may be in the set.
    size: how many archs the set has at the end. 0: as many as there are in pockets of the best
        tenth of the set before; no neighbor is left out then, as in the paper.
    pocket: neighbors kept of each seed, its best of `DRAWS` times as many.
    distance: neighbors are 1 to this many edits away.
    locality: without it, random archs take the place of neighbors (an ablation of the paper).
    """

    space: Space
    predict: Callable[[Archs], Scores]
    allowed: Callable[[Archs], npt.NDArray[np.bool_]]
    size: int
    pocket: int
    distance: int
    locality: bool = True
    queries: int = 0  # predictions made

    def best_of(self, population: Archs) -> Shrunk:
        """The best-predicted archs of some, as they are."""
        archs = self.space.distinct(population[self.allowed(population)])
        if not len(archs):
            raise NasplugError(f"no arch of {self.space.name} is allowed; loosen the constraints")
        scores = self.predict(archs)
        self.queries += len(archs)
        return self._ranked(archs, scores, [float(scores.mean())])

    def shrink(self, population: Archs, rng: np.random.Generator) -> Shrunk:
        """Seeds and neighbors in turn, beginning with a sample of the space."""
        start = self.best_of(population)
        archs, scores, means = start.archs, start.scores, start.means
        while True:
            next_archs, next_scores = self.around_seeds(archs, scores, min(self.size, WORK), rng)
            mean = float(next_scores.mean())
            if mean - means[-1] <= PLATEAU * (means[min(1, len(means) - 1)] - means[0]):
                break  # it fell or plateaued: roll back
            archs, scores = next_archs, next_scores
            means.append(mean)
        while len(archs) < self.size:  # pockets around the pockets
            wider, wider_scores = self.around_seeds(archs, scores, self.size, rng)
            if len(wider) <= len(archs):
                break
            archs, scores = wider, wider_scores
        return self._ranked(archs, scores, means)

    def around_seeds(
        self, archs: Archs, scores: Scores, size: int, rng: np.random.Generator
    ) -> tuple[Archs, Scores]:
        """The next set: pockets around the best seeds, opened until it has `size` archs.

        The best seed that is in no pocket yet comes next, so pockets spread over all good regions.
        """
        left = np.argsort(-scores, kind="stable")
        chosen, chosen_scores = archs[:0], scores[:0]
        # Pockets overlap: a few at a time.
        step = -(-size // (4 * (self.pocket + 1))) or max(1, round(BEST * len(archs)))
        while len(left) and (len(chosen) < size or not len(chosen)):
            seeds, left = left[:step], left[step:]
            near, near_scores = self.neighbors(archs[seeds], rng)
            chosen = np.concatenate([chosen, archs[seeds], near])
            chosen_scores = np.concatenate([chosen_scores, scores[seeds], near_scores])
            first = first_of_each(self.space, chosen)
            chosen, chosen_scores = chosen[first], chosen_scores[first]
            left = left[~isin(self.space, archs[left], chosen)]
        return chosen[: size or None], chosen_scores[: size or None]

    def _ranked(self, archs: Archs, scores: Scores, means: list[float]) -> Shrunk:
        best = np.argsort(-scores, kind="stable")[: self.size or None]
        return Shrunk(archs[best], scores[best], means, self.queries)

    def neighbors(self, seeds: Archs, rng: np.random.Generator) -> tuple[Archs, Scores]:
        """The best-predicted of random neighbors of each seed: at most `pocket` of each."""
        draws = self.pocket * (DRAWS if self.size else 1)
        parents = np.repeat(seeds, draws, axis=0)
        if self.locality:
            edits = 1 + np.arange(len(parents)) % self.distance  # as many at each distance
            near = self.space.edit(parents, edits, rng)
        else:
            near = self.space.sample(len(parents), rng)
        usable = np.flatnonzero(self.allowed(near))
        other = self.space.classes(near[usable]) != self.space.classes(parents[usable])
        usable = usable[other]
        usable = usable[first_of_each(self.space, near[usable])]
        scores = self.predict(near[usable])
        self.queries += len(usable)
        table = np.full((len(seeds), draws), -np.inf, scores.dtype)
        table.flat[usable] = scores
        best = np.argpartition(-table, self.pocket - 1, axis=1)[:, : self.pocket]
        rows = (best + draws * np.arange(len(seeds))[:, None]).ravel()
        rows = rows[np.isfinite(table.flat[rows])]
        return near[rows], table.flat[rows]


def first_of_each(space: Space, archs: Archs) -> Rows:
    """The rows where a class of isomorphic archs first occurs."""
    return np.sort(np.unique(space.classes(archs), return_index=True)[1])


def isin(space: Space, archs: Archs, others: Archs) -> npt.NDArray[np.bool_]:
    """Which archs have an isomorph among the others."""
    return np.isin(space.classes(archs), space.classes(others))
