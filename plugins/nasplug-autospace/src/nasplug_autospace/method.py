"""AutoSpace: "AutoSpace: Neural Architecture Search with Less Human Interference" (Zhou et al.,
ICCV 2021). Equation numbers are the paper's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasplug import (
    Archs,
    Bool,
    Choice,
    Float,
    Hyperparameter,
    Int,
    Layered,
    NasplugError,
    Region,
    Search,
    Selection,
    Source,
    Space,
    hookimpl,
)
from nasplug.nn import (
    Bools,
    Floats,
    Mixture,
    Oneshot,
    Supernet,
    binary_gates,
    initialise,
    to_device,
)
from nasplug.spaces import Learned, OpenCells
from nasplug_autospace.evolution import Rules, compensation, hamming, momentum, tournament
from nasplug_autospace.final import union
from nasplug_autospace.pictures import draw_fitness, draw_frequent

TRIED = 10  # draws of a cell after which its fitness is its own
# The same function, 1x1, depthwise 3x3, 1x1, on the path through all nodes, with which every cell
# that the authors released begins, and on one edge alone, which leaves fewer cells near it.
REFERENCES = {"chain": "dzizzi+6", "inverted-residual": "zzzdzz+6"}


class AutoSpace(Oneshot):
    """AutoSpace: a population of open cells evolves in each layer; the fittest are the space."""

    paper = "Zhou et al., AutoSpace: NAS with Less Human Interference, ICCV 2021"
    problem = "open-cells/digits"

    ablations = {  # noqa: RUF012 - read only
        "without reference": {"reference": "none"},  # Figure 3 and Table 5
        "without compensation": {"compensate": False},
    }

    K = Int(
        9, low=2, high=1000, at_most="population",
        doc="cells of a layer in the supernet, and in the learned space",
    )  # fmt: skip
    final = Choice(
        "union", choices=("union", "cells"), tunable=False,
        doc="the learned space: with inverted residuals, other kernels and zero, or cells alone",
    )  # fmt: skip
    population = Int(32, low=2, high=10_000, log=True, doc="cells that each layer evolves")
    size = Int(4, low=1, high=1000, doc="cells in a tournament")
    period = Int(20, low=1, high=100_000, log=True, doc="steps between two generations")
    gamma = Float(0.5, low=0, high=0.999, doc="momentum of the fitness in the population (eq. 5)")
    arch_lr = Float(1.0, low=1e-6, high=100, log=True, doc="of the fitness: plain SGD (eq. 4)")
    reference = Source(
        "chain",
        doc="the cell to stay close to at first: chain, inverted-residual, one like zzzdzz+6, none",
    )
    distance = Int(2, low=0, high=6, doc="edges in which a cell may differ from it (eq. 2)")
    guided = Float(0.5, low=0, high=1, doc="share of the epochs in which the reference holds")
    compensate = Bool(
        True, tunable=False, doc="scale the gradient of cells that are seldom drawn (eq. 4)"
    )
    lr = replace(Oneshot.lr, default=0.1)
    warmup = replace(Oneshot.warmup, default=5)
    madds = Float(
        2.0, low=0.1, high=1000, log=True,
        doc="limit of a cell (eq. 1), in multiply-adds of the inverted residual of expansion 6",
    )  # fmt: skip

    @classmethod
    def ranges(cls, space: Space) -> dict[str, Hyperparameter[Any]]:
        """Limits within which the default reference has hundreds of cells around it."""
        return {
            "population": replace(cls.population, high=50),
            "madds": replace(cls.madds, low=2.0),
            "distance": replace(cls.distance, low=2),
        }

    net: Any  # the supernet of open cells, which holds K of each layer at a time

    def make_supernet(self, search: Search) -> Supernet:
        space = search.space
        if not isinstance(space, OpenCells):
            raise NasplugError(f"autospace evolves open-cells, not {space.name}")
        if not isinstance(search.region.unlimited, OpenCells):
            raise NasplugError("autospace evolves all of open-cells: it takes no --within")
        self.space = space
        self.block = space.layer_from_str(REFERENCES["inverted-residual"])
        limit = limits(space, self.madds)
        self.rules = Rules(space, limit, _reference(space, self.reference), self.distance)
        # ---- the first generation
        self.cells = self.rules.first(self.population, search.rng)  # (L, P, 8)
        self.fitness = np.zeros(self.cells.shape[:2])  # (L, P)
        self.born = np.zeros(self.fitness.shape, np.int64)  # the step that made a cell
        self.drawn = np.zeros(self.fitness.shape, np.int64)  # steps in which the gates drew it
        self.held = np.zeros((len(space.layers), self.K), np.int64)  # the K in the supernet
        affordable = _affordable(space, limit)
        layers = self._layered(self.held + np.arange(self.K))
        net: Supernet = initialise(lambda: space.shared_supernet(affordable, layers), self.seed)
        return to_device(net, self.device)

    def start(self, search: Search) -> list[Tensor]:
        self.alpha = self.parameter(*self.held.shape, spread=0.0)
        self.alpha.register_hook(self._compensate)
        return [self.alpha]

    def setup(self, search: Search) -> None:
        super().setup(search)
        self.bilevel.architecture = torch.optim.SGD([self.alpha], self.arch_lr)

    # ---- a generation

    @hookimpl
    def sample_space(self, search: Search) -> Region:
        """Tournaments pick K cells of each layer."""
        if self.step % self.period:
            return self.net.layers
        if self.epoch_number >= self.guided * self.total:
            self.rules.reference = None
        return self._layered(tournament(self.fitness, self.K, self.size, search.rng))

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Region:
        """Their mutated offspring take the place of the least fit; K cells of all are trained."""
        if self.step % self.period == 0:
            if self.step > self.warmup * self.per_epoch:  # else nothing is known of any fitness
                self._breed(search, self._places(subspace))
            self._hold(tournament(self.fitness, self.K, self.size, search.rng))
        return self.net.layers

    def round_steps(self) -> int:
        return self.period - self.step % self.period

    def mixture(self) -> Mixture:
        """One cell per layer to learn weights, two to learn their fitness   (eq. 3)."""
        fitting = torch.is_grad_enabled()
        paths = 2 if fitting else 1
        gates, mask = binary_gates(self.masked(self.alpha), paths, self.generator(1 + paths))
        if fitting:
            self.drawn[self.rows, self.held] += mask
        return Mixture(gates, mask)

    def _compensate(self, gradient: Tensor) -> Tensor:
        if not self.compensate:
            return gradient
        at = self.rows, self.held
        age = self.step + 1 - np.maximum(self.born[at], self.warmup * self.per_epoch)
        return gradient * gradient.new_tensor(compensation(age, self.drawn[at]))  # eq. 4

    def after_step(self) -> None:
        if self.step % self.period == 0:
            at, alpha = (self.rows, self.held), self.alpha.detach().cpu().double().numpy()
            self.fitness[at] = momentum(self.fitness[at], alpha, self.gamma)  # eq. 5

    def _breed(self, search: Search, parents: Archs) -> None:
        """A child of each parent, with its parent's fitness, in place of the least fit."""
        at = self.rows, parents
        children, found = self.rules.mutate(self.cells[at], self.cells, search.rng)
        spare = self.fitness.copy()
        spare[at] = np.inf  # who has just won stays
        lots = search.rng.random(spare.shape)  # who dies of the equally unfit
        dying = np.lexsort((lots, spare), axis=1)[:, : self.population - self.K]
        layer, child = np.nonzero(found[:, : dying.shape[1]])
        dead, parent = dying[layer, child], parents[layer, child]
        self.cells[layer, dead] = children[layer, child]
        self.fitness[layer, dead] = self.fitness[layer, parent]
        self.born[layer, dead], self.drawn[layer, dead] = self.step, 0

    def _hold(self, places: Archs) -> None:
        """Cells and scores go into the supernet in pairs."""
        self.held = places
        self.net.hold(self._layered(places))
        with torch.no_grad():
            self.alpha.copy_(torch.from_numpy(self.fitness[self.rows, places]))

    @property
    def rows(self) -> Archs:
        """(L, 1) the layers, to index populations with."""
        return np.arange(len(self.cells))[:, None]

    @property
    def epoch_number(self) -> int:
        return self.step // self.per_epoch

    def _layered(self, places: Archs) -> Layered:
        return Layered(self.space, list(self.cells[self.rows, places]))

    def _places(self, layered: Layered) -> Archs:
        """(L, K) where the cells of a layered subspace are in the populations."""
        same = (self.cells[:, None] == np.array(layered.choices)[:, :, None]).all(-1)
        return same.argmax(-1)

    # ---- the answer

    def ranked(self) -> Archs:
        """(L, P): places by fitness; cells whose fitness is still their parent's come last."""
        tried = np.where(self.drawn >= TRIED, self.fitness, self.fitness - 1e6)
        return np.argsort(-tried, axis=1, kind="stable")

    def selected(self) -> Archs:
        best = self.cells[self.rows, self.ranked()[:, :1]]
        return best.reshape(-1)

    def watch(self, arch: Archs) -> dict[str, float]:
        now = self.space.split(arch)[0]
        metrics = {"idle_share": float((~self.space.live(now).any(-1)).mean())}
        if self.arch is not None:
            changed = (now != self.space.split(self.arch)[0]).any(-1)
            metrics["distance"] = float(changed.mean())
        return metrics

    def epoch_metrics(self, search: Search) -> dict[str, float]:
        fitness = np.sort(self.fitness, axis=1)
        return {
            "fitness_best": float(fitness[:, -1].mean()),
            "fitness_median": float(np.median(fitness, axis=1).mean()),
            "fitness_worst": float(fitness[:, 0].mean()),
            "from_inverted_residual": float(hamming(self.cells, self.block).mean()),
        }

    @hookimpl
    def select_final(self, search: Search) -> Selection:
        """The K fittest cells of each layer, with what a person would add if `final` is union."""
        cells = self._layered(self.ranked()[:, : self.K])
        space = union(cells) if self.final == "union" else cells
        selection = super().select_final(search)
        selection.subspace = space
        selection.files["learned-space.json"] = Learned(space, "learned").save
        selection.pictures |= {
            "fitness.png": lambda figure: draw_fitness(search, figure),
            "cells.png": lambda figure: draw_frequent(cells, figure),
        }
        return selection

    # ---- checkpoints

    def memory(self) -> dict[str, Any]:
        names = ("cells", "fitness", "born", "drawn", "held")
        return {name: getattr(self, name) for name in names}

    def remember(self, memory: dict[str, Any]) -> None:
        for name, value in memory.items():
            setattr(self, name, value)
        self.net.hold(self._layered(self.held))
        if self.epoch_number >= self.guided * self.total:
            self.rules.reference = None


def _reference(space: OpenCells, name: Any) -> Archs | None:
    if str(name) == "none":
        return None
    try:
        return space.sized(kernel=3).layer_from_str(REFERENCES.get(str(name), str(name)))
    except NasplugError as error:
        raise NasplugError(
            f"reference is {', '.join(REFERENCES)}, none or a cell: {error}"
        ) from None


def limits(space: OpenCells, madds: float) -> Floats:
    """(L,): the limit of a cell in each layer, multiply-adds   (eq. 1).

    madds: in those of the inverted residual of expansion 6.
    """
    layers = np.arange(len(space.layers))
    block = space.layer_from_str(REFERENCES["inverted-residual"])
    return madds * space.cell_costs(np.tile(block, (len(layers), 1)), layers)[:, 1]


def _affordable(space: OpenCells, limit: Floats) -> Bools:
    """(L, 2, 5): whether the cheapest cell with an operation keeps to the limit, by expansion."""
    L, E, O = len(space.layers), len(space.EXPANSIONS), len(space.OPS)  # noqa: E741
    cells = np.zeros((L, E, O, space.GENES), np.int64)
    cells[..., 3] = np.arange(O)  # from the input node to the output node
    cells[..., -1] = np.arange(E)[:, None]
    cost = space.cell_costs(cells, np.arange(L)[:, None, None])[..., 1]
    return cost <= limit[:, None, None]
