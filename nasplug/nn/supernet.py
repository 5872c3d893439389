"""Supernet: the network of a space with every operation in it, and how archs read in it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from nasplug.errors import NasplugError
from nasplug.nn.data import Images, Part
from nasplug.nn.mixed import Bools, batch_statistics, inherit, mix
from nasplug.nn.training import accuracy
from nasplug.space import Archs, Space
from nasplug.subspace import Region, Subspace

Floats = npt.NDArray[np.float64]


class Supernet(nn.Module):
    """(b, in_channels, h, w) -> (b, num_classes), as `mix` has set its mixed operations.

    D decisions (the edges of its cells), each between the same operations `ops`, the first of
    which is none at all. Masks, weights and scores are (D, O).
    """

    ops: tuple[str, ...]

    def __init__(self, space: Space, decisions: tuple[str, ...], network: nn.Module) -> None:
        super().__init__()
        self.space = space
        self.decisions = decisions
        self.network = batch_statistics(network)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def mix(self, weights: Tensor | None, mask: Bools, gates: Tensor | None = None) -> None:
        """See `nasplug.nn.mixed.mix`."""
        mix(self, weights, mask, gates)

    def inherit(self, arch: Archs) -> nn.Module:
        """The stand-alone network of an arch, with the weights learned here."""
        return inherit(self.network, self.chosen(arch[None])[0])

    def accuracy(self, arch: Archs, data: Images, part: Part, limit: int | None = None) -> float:
        """The share of `part` that the arch classifies right with the weights learned here, %."""
        self.mix(None, self.chosen(arch[None])[0])
        return accuracy(self, data, part, limit)

    # ---- archs, masks and scores

    @abstractmethod
    def chosen(self, archs: Archs) -> Bools:
        """(n, d) -> (n, D, O): the operation of each edge; all False for an edge left out."""

    @abstractmethod
    def select(self, scores: Floats) -> Archs:
        """(D, O) -> (d,): the arch of the highest scores, by the rules of the space."""

    @abstractmethod
    def groups(self) -> list[list[int]]:
        """The decisions of each kind of cell."""

    @abstractmethod
    def incoming(self) -> list[list[int]]:
        """The decisions of each node of each kind of cell."""

    @abstractmethod
    def region(self, mask: Bools) -> Subspace:
        """The archs whose operations are all in the mask."""

    @abstractmethod
    def allowed(self, region: Region) -> Bools:
        """(D, O): the mask of a region; NasplugError if it has none."""

    @property
    def idle(self) -> Bools:
        """(O,), or (D, O) where decisions differ: the operations that do nothing, such as skip."""
        return np.isin(self.ops, ("none", "skip_connect"))


def supernet(space: Space, **options: Any) -> Supernet:
    """The supernet of a space; options: num_classes, in_channels, C, layers, partial."""
    make = getattr(space, "supernet", None)
    if make is None:
        raise NasplugError(
            f"{space.name} has no supernet; nb201 and darts have one, and a space of your own "
            "may define supernet(num_classes, in_channels, C, layers, partial)"
        )
    made: Supernet = make(**options)
    return made
