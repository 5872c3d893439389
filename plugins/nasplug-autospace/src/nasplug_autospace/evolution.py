"""What AutoSpace does to the populations of all layers at once. Equation numbers are the paper's.

Populations are (L, P, 8) cells, their fitness (L, P); L layers, P cells in each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nasplug import Archs, NasplugError
from nasplug.nn import Bools, Floats
from nasplug.spaces import OpenCells

Ints = npt.NDArray[np.int64]

EDGES = len(OpenCells.EDGES)  # the first genes of a cell; its aggregation and expansion follow


def tournament(fitness: Floats, n: int, size: int, rng: np.random.Generator) -> Ints:
    """(L, P) -> (L, n): n different winners of each layer, each the fittest of `size` drawn; one of
    the fittest at random, as all are equal until the first gates have been learned."""
    L, P = fitness.shape
    layers = np.arange(L)
    there = np.ones((L, P), bool)
    winners = np.empty((L, n), np.int64)
    for i in range(n):
        lots = np.where(there, rng.random((L, P)), 2.0)
        drawn = there & (lots <= np.sort(lots, 1)[:, [min(size, P) - 1]])
        best = np.where(drawn, fitness, -np.inf).max(1, keepdims=True)
        winners[:, i] = np.where(drawn & (fitness == best), lots, np.inf).argmin(1)
        there[layers, winners[:, i]] = False
    return winners


def compensation(age: Ints, drawn: Ints) -> Floats:
    """T_pop / T_k: iterations in the population over those in which the gates let it in (eq. 4)."""
    return age / np.maximum(drawn, 1)


def momentum(population: Floats, supernet: Floats, gamma: float) -> Floats:
    """γ fit_pop + (1 - γ) fit_supernet   (eq. 5)."""
    return gamma * population + (1 - gamma) * supernet


def hamming(cells: Archs, reference: Archs) -> Ints:
    """(..., 8) -> (...): edges of the DAG whose operation is not the reference's   (eq. 2)."""
    return (cells[..., :EDGES] != reference[:EDGES]).sum(-1)


DRAWN = 500  # mutants of which the first that may live is taken
TRIES = 50  # parents in a row without a child, after which the first generation gives up


class Rules:
    """Which cells may live: within the MAdds limit (eq. 1), and close to the reference (eq. 2).

    limit: (L,) multiply-adds of a cell. reference: (8,), or None for no such rule. Depthwise
    kernels of more than 3 are not evolved, but come with the final space.
    """

    def __init__(
        self, space: OpenCells, limit: Floats, reference: Archs | None, distance: int
    ) -> None:
        self.space, self.limit = space, limit
        self.reference, self.distance = reference, distance
        self.needed = np.array([not layer.residual for layer in space.layers])
        self.choices = np.minimum(space.cardinalities[: OpenCells.GENES], len(space.OPS))

    def allow(self, cells: Archs, layer: Ints) -> Bools:
        """(..., 8) cells in layers (...) -> (...)."""
        good = self.space.cell_costs(cells, layer)[..., 1] <= self.limit[layer]
        good &= self.space.live(cells).any(-1) | ~self.needed[layer]
        if self.reference is not None:
            good &= hamming(cells, self.reference) <= self.distance
        return good

    def first(self, P: int, rng: np.random.Generator) -> Archs:
        """(L, P, 8): P different cells of each layer, the reference and what mutates from it; or
        random ones without a reference."""
        L = len(self.limit)
        population = np.empty((L, 0, OpenCells.GENES), self.space.dtype)
        if self.reference is not None:
            population = np.repeat(self.reference[None, None], L, 0).astype(self.space.dtype)
            if not (within := self.allow(population[:, 0], np.arange(L))).all():
                raise NasplugError(
                    f"the reference is above the MAdds limit of layer {np.argmin(within)}: raise "
                    "madds"
                )
        tries = 0
        while (size := population.shape[1]) < P:
            if self.reference is None:
                drawn = rng.integers(0, self.choices, (L, DRAWN, OpenCells.GENES))
            else:
                parents = rng.integers(0, size, L)
                drawn = self._mutants(population[np.arange(L), parents], rng)
            cells, found = self._new(drawn, population)
            tries = 0 if found.all() else tries + 1
            if found.all():
                population = np.concatenate([population, cells[:, None]], 1)
            elif tries == TRIES:
                raise NasplugError(
                    f"layer {np.argmin(found)} has {size} cells in reach, not {P}: raise madds or "
                    "distance, or lower the population"
                )
        return population

    def mutate(
        self, parents: Archs, population: Archs, rng: np.random.Generator
    ) -> tuple[Archs, Bools]:
        """(L, n, 8) -> (L, n, 8) a child of each, new to the population of its layer; (L, n)
        whether one was found.

        An edge's operation, the aggregation or the expansion changes, and half of the time a
        further one, and so on; until the rules hold.
        """
        size, found = population.shape[1], []
        for parent in parents.transpose(1, 0, 2):
            child, new = self._new(self._mutants(parent, rng), population)
            population = np.concatenate([population, child[:, None]], 1)
            found.append(new)
        return population[:, size:], np.stack(found, 1)

    def _mutants(self, parents: Archs, rng: np.random.Generator) -> Archs:
        """(L, 8) -> (L, DRAWN, 8)."""
        shape = (len(parents), DRAWN, OpenCells.GENES)
        order = rng.random(shape).argsort(2).argsort(2)
        changed = order < rng.geometric(0.5, (*shape[:2], 1))
        return (parents[:, None] + rng.integers(1, self.choices, shape) * changed) % self.choices

    def _new(self, drawn: Archs, population: Archs) -> tuple[Archs, Bools]:
        """Of (L, DRAWN, 8) cells the first of each layer that may live and is new; (L,) if any."""
        drawn, layers = (
            self.space.canonical_cells(drawn).astype(self.space.dtype),
            np.arange(len(drawn)),
        )
        good = self.allow(drawn, layers[:, None])
        good &= ~(drawn[:, :, None] == population[:, None]).all(3).any(2)
        return drawn[layers, good.argmax(1)], good.any(1)
