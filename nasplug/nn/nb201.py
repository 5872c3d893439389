"""The network of NAS-Bench-201 around a cell (Dong and Yang, ICLR 2020, section 2.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn

from nasplug.errors import NasplugError
from nasplug.nn.convolution import AvgPool, Pointwise, convolution
from nasplug.nn.mixed import Bools, MixedOp, Op, Shared, Zero, forget
from nasplug.nn.supernet import Floats, Supernet
from nasplug.space import Archs
from nasplug.spaces.nb201 import NB201, OPS
from nasplug.subspace import Mask, Region

Edge = Callable[[int, int], nn.Module]  # (what is on the edge, channels) -> its module


class ReLUConvBN(Op):
    """ReLU, a bias-free convolution, batch norm: (b, c_in, h, w) -> (b, c_out, h/s, w/s)."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, affine: bool = True
    ) -> None:
        super().__init__(
            Shared(nn.ReLU()),
            convolution(c_in, c_out, kernel, stride),
            nn.BatchNorm2d(c_out, affine=affine),
        )


def operation(op: int, c: int, affine: bool = True) -> nn.Module:
    """The operation of an edge, in the order of `nasplug.spaces.nb201.OPS`, at c channels."""
    match op:
        case 0:
            return Zero()
        case 1:
            return nn.Identity()
        case 2:
            return ReLUConvBN(c, c, kernel=1, affine=affine)
        case 3:
            return ReLUConvBN(c, c, kernel=3, affine=affine)
        case _:
            return Shared(AvgPool())


class Cell(nn.Module):
    """Node i is the sum over j < i of operation (i, j) applied to node j; node 3 is the output."""

    def __init__(self, arch: Sequence[int], c: int, edge: Edge = operation) -> None:
        super().__init__()
        self.ops = nn.ModuleList(edge(op, c) for op in arch)

    def forward(self, x: Tensor) -> Tensor:
        ops = iter(self.ops)
        nodes = [x]
        for _ in range(3):
            nodes.append(reduce(torch.add, [next(ops)(node) for node in nodes]))
        forget(nodes)
        return nodes[-1]


class Reduction(nn.Module):
    """A residual block of half the resolution and twice the channels."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ReLUConvBN(c, 2 * c, kernel=3, stride=2), ReLUConvBN(2 * c, 2 * c, kernel=3)
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), Pointwise(c, 2 * c))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


class Network(nn.Sequential):
    """Stem, N cells, reduction, N cells, reduction, N cells, classifier.

    (b, in_channels, h, w) images, h and w multiples of 4 -> (b, num_classes) logits.
    """

    def __init__(
        self,
        arch: Sequence[int],
        num_classes: int,
        C: int,
        N: int,
        in_channels: int,
        edge: Edge = operation,
    ) -> None:
        stem = nn.Sequential(nn.Conv2d(in_channels, C, 3, padding=1, bias=False), nn.BatchNorm2d(C))
        super().__init__(
            stem,
            *(Cell(arch, C, edge) for _ in range(N)),
            Reduction(C),
            *(Cell(arch, 2 * C, edge) for _ in range(N)),
            Reduction(2 * C),
            *(Cell(arch, 4 * C, edge) for _ in range(N)),
            nn.BatchNorm2d(4 * C),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * C, num_classes),
        )


class NB201Supernet(Supernet):
    """The network with all five operations on each of the six edges, shared by all cells.

    Batch norms of the operations are not affine and use the statistics of the batch.
    """

    ops = OPS
    space: NB201

    def __init__(
        self,
        space: NB201,
        num_classes: int,
        in_channels: int,
        C: int = 16,
        layers: int = 5,
        partial: int = 1,
    ) -> None:
        if C % partial:
            raise NasplugError(f"C={C} channels do not divide into {partial} parts")

        def edge(decision: int, c: int) -> nn.Module:
            candidates = [operation(op, c // partial, affine=False) for op in range(len(OPS))]
            return MixedOp(candidates, decision, partial)

        network = Network(range(space.d), num_classes, C, layers, in_channels, edge)
        super().__init__(space, space.names, network)

    def chosen(self, archs: Archs) -> Bools:
        return np.asarray(archs)[..., None] == np.arange(len(OPS))

    def select(self, scores: Floats) -> Archs:
        return scores.argmax(-1).astype(self.space.dtype)

    def groups(self) -> list[list[int]]:
        return [[*range(self.space.d)]]

    def incoming(self) -> list[list[int]]:
        return [[0], [1, 2], [3, 4, 5]]

    def region(self, mask: Bools) -> Mask:
        return Mask(self.space, mask)

    def allowed(self, region: Region) -> Bools:
        if region is self.space:
            return np.ones((len(self.decisions), len(OPS)), bool)
        if isinstance(region, Mask):
            return region.allowed
        raise NasplugError(f"a supernet relaxes nb201 or a mask of it, not {region.describe()}")
