"""Supernet: the network of a space with every choice in it, and how archs read in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs, Space
from nasplug.kernel.subspace import Mask, Region, Subspace
from nasplug.nn.data import Images, Part
from nasplug.nn.mixed import Bools, batch_statistics, inherit, mix
from nasplug.nn.training import recalibrate, score

Floats = npt.NDArray[np.float64]

RECALIBRATED = 250  # training examples at a time
IDLE = ("none", "skip_connect", "identity", "zero")  # choices that do nothing, by their names


class Supernet(nn.Module):
    """(b, channels, h, w) -> (b, classes), or whatever its network takes and gives, as `mix` has
    set it: D decisions, each with choices of its own.

    O is the most choices that any decision has. Masks, weights, scores and costs are (D, O);
    where a decision has fewer choices the last places are none, and never allowed.

    decisions: {name: names of its choices}. costs: (D, O) multiply-adds that each choice adds to
    the network, `fixed` what every network has. How archs read in it (`chosen`, `select`, `region`,
    `allowed`) a subclass says if its decisions are not those of the space, and, if it is made of
    cells, which belong together (`groups`, `incoming`).
    """

    def __init__(
        self,
        space: Space,
        network: nn.Module,
        decisions: Mapping[str, Sequence[str]],
        costs: npt.ArrayLike,
        fixed: float,
    ) -> None:
        super().__init__()
        self.space = space
        self.network = batch_statistics(network)
        self.decisions, self.choices = tuple(decisions), tuple(map(tuple, decisions.values()))
        self.costs, self.fixed = np.asarray(costs, np.float64), float(fixed)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self.network(*inputs, **keywords)

    def mix(self, weights: Tensor | None, mask: Bools, gates: Tensor | None = None) -> None:
        """See `nasplug.nn.mixed.mix`."""
        mix(self, weights, mask, gates)

    def inherit(self, arch: Archs) -> nn.Module:
        """The stand-alone network of an arch, with the weights learned here."""
        return inherit(self.network, self.chosen(arch[None])[0])

    def score(self, arch: Archs, data: Images, part: Part, limit: int | None = None) -> float:
        """The metric of the data's task on `part`, of the arch with the weights learned here."""
        self.mix(None, self.chosen(arch[None])[0])
        value = score(self, data, part, limit)
        self.train()  # it goes on to learn, with its dropouts
        return value

    def inherited_scores(
        self, arch: Archs, data: Images, parts: Sequence[Part], n: int
    ) -> list[float]:
        """The metric of the data's task on the first n examples of each part, of the stand-alone
        network of an arch with the weights learned here, as Guo et al. (SPOS, ECCV 2020) score it:
        its batch norms are recalibrated on n / 2 training examples."""
        model = recalibrate(self.inherit(arch), data, max(1, n // 2 // RECALIBRATED), RECALIBRATED)
        return [score(model, data, part, n) for part in parts]

    # ---- the choices

    @property
    def exists(self) -> Bools:
        """(D, O): the choices that there are."""
        counts = np.array([len(choices) for choices in self.choices])
        return np.arange(counts.max()) < counts[:, None]

    def named(self, *names: str) -> Bools:
        """(D, O): the choices of these names."""
        found = np.zeros(self.exists.shape, bool)
        for row, choices in zip(found, self.choices, strict=True):
            row[: len(choices)] = np.isin(choices, names)
        return found

    @property
    def idle(self) -> Bools:
        """(D, O): the choices that do nothing, such as skip."""
        return self.named(*IDLE)

    @property
    def cut(self) -> Bools:
        """(D, O): the choices that let nothing pass: an edge that is not there."""
        return self.named("none")

    @property
    def mixable(self) -> Bools:
        """(D, O): the choices that can be mixed with the others of their decision, having outputs
        of one shape; others can only be chosen."""
        return self.exists

    def groups(self) -> list[list[int]]:
        """The decisions of each kind of cell: ``[[0, 1, 2], [3, 4, 5]]`` for a normal and a
        reduction cell of three edges each. By default all are one kind."""
        return [[*range(len(self.decisions))]]

    def incoming(self) -> list[list[int]]:
        """The decisions that enter each node of each kind of cell: ``[[0], [1, 2]]`` where edge 0
        enters node 1, and edges 1 and 2 enter node 2. By default each enters one of its own."""
        return [[i] for i in range(len(self.decisions))]

    # ---- archs, masks and scores

    def chosen(self, archs: Archs) -> Bools:
        """(n, d) -> (n, D, O): the choice of each decision; all False for an edge left out."""
        return np.asarray(archs)[..., None] == np.arange(self.exists.shape[1])

    def select(self, scores: Floats, region: Region | None = None) -> Archs:
        """(D, O) -> (d,): the arch of the highest scores, by the rules of the space.

        Scores outside of a mask are -inf. region: where it must lie, if that is more than a mask
        of the choices can say.
        """
        return np.where(self.exists, scores, -np.inf).argmax(-1).astype(self.space.dtype)

    def region(self, mask: Bools) -> Subspace:
        """The archs whose choices are all in the mask."""
        return Mask(self.space, mask)

    def allowed(self, region: Region) -> Bools:
        """(D, O): the choices that the archs of a region have; NasplugError if it is of a kind
        that cannot be trained as one network."""
        if isinstance(region, Space):
            return self.exists
        if isinstance(region, Mask):
            return region.allowed
        raise self.refuse(region)

    def stages(self) -> list[Bools]:
        """(D, O) masks that progressive shrinking opens one after another: from the largest arch
        alone to all choices. NasplugError if choices have weights of their own."""
        raise NasplugError(
            f"a supernet of {self.space.name} cannot shrink: its choices have weights of their "
            "own, not a part of those of the largest; take another strategy"
        )

    def draw(self, mask: Bools, n: int, rng: np.random.Generator) -> Archs:
        """(n, d) archs of a stage, to be trained."""
        return self.region(mask).sample(n, rng)

    def refuse(self, region: Region) -> NasplugError:
        return NasplugError(
            f"a supernet of {self.space.name} cannot be restricted to a {region.describe()}: it "
            "takes masks, which allow choices of decisions; a method that trains uniformly drawn "
            "archs takes any region"
        )


def one_choice_costs(space: Space, arch: Archs) -> tuple[Floats, float]:
    """(d, O) multiply-adds that each choice has beside choice 0 of its decision, and those of the
    arch whose choices all are 0: for spaces whose decisions are those of their supernet."""
    base = float(space.flops(arch[None])[0])
    costs = np.zeros((space.d, int(space.cardinalities.max())))
    for i, n in enumerate(space.cardinalities):
        archs = np.repeat(arch[None], n, 0)
        archs[:, i] = np.arange(n)
        costs[i, :n] = space.flops(archs) - base
    return costs, base
