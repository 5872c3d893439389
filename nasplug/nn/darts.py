"""The network of DARTS around its two cells (Liu, Simonyan and Yang, ICLR 2019)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nasplug.errors import NasplugError
from nasplug.nn.convolution import AvgPool, Depthwise, Pointwise
from nasplug.nn.mixed import Bools, MixedOp, Op, Shared, Zero, forget
from nasplug.nn.supernet import Floats, Supernet
from nasplug.space import Archs
from nasplug.spaces import darts as space_of
from nasplug.spaces.darts import CELLS, EDGES, FIRST, INPUTS, NODES, Darts, EdgeMask
from nasplug.subspace import Region

OPS = ("none", *space_of.OPS)
STEM = 3  # times C

# (what is on the edge, channels, stride) -> its module
Edge = Callable[[int, int, int], nn.Module]


class ReLUConvBN(Op):
    """(b, c_in, h, w) -> (b, c_out, h, w) by a 1x1 convolution."""

    def __init__(self, c_in: int, c_out: int, affine: bool) -> None:
        super().__init__(
            Shared(nn.ReLU()),
            Pointwise(c_in, c_out),
            nn.BatchNorm2d(c_out, affine=affine),
        )


class FactorizedReduce(nn.Module):
    """Two 1x1 convolutions of stride 2, one of them shifted by a pixel, side by side.

    (b, c_in, h, w) -> (b, c_out, h/2, w/2), h and w even.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.even = Pointwise(c_in, c_out // 2)
        self.odd = Pointwise(c_in, c_out - c_out // 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.even(x[..., ::2, ::2]), self.odd(x[..., 1::2, 1::2])], dim=1)


def halving(c_in: int, c_out: int, affine: bool) -> Op:
    """(b, c_in, h, w) -> (b, c_out, h/2, w/2), h and w even."""
    return Op(
        Shared(nn.ReLU()), FactorizedReduce(c_in, c_out), nn.BatchNorm2d(c_out, affine=affine)
    )


def separable(c: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    """ReLU, depthwise and 1x1 convolution, batch norm."""
    return [
        Shared(nn.ReLU()),
        Depthwise(c, kernel, stride, dilation),
        Pointwise(c, c),
        nn.BatchNorm2d(c, affine=affine),
    ]


def operation(op: int, c: int, stride: int, affine: bool = True) -> nn.Module:
    """The operation of an edge, in the order of `OPS`, at c channels."""
    match OPS[op]:
        case "none":
            return Zero(stride)
        case "max_pool_3x3":
            return Shared(nn.MaxPool2d(3, stride, padding=1))
        case "avg_pool_3x3":
            return Shared(AvgPool(stride))
        case "skip_connect":
            return nn.Identity() if stride == 1 else halving(c, c, affine)
        case name:
            kind, _, size = name.rpartition("_")
            kernel = int(size[0])
            if kind == "dil_conv":
                return Op(*separable(c, kernel, stride, dilation=2, affine=affine))
            return Op(
                *separable(c, kernel, stride, dilation=1, affine=affine),
                *separable(c, kernel, stride=1, dilation=1, affine=affine),
            )


def candidate(op: int, c: int, stride: int) -> nn.Module:
    """An operation as the supernet has it: no affine batch norm, and one after each pool."""
    made = operation(op, c, stride, affine=False)
    return Op(made, nn.BatchNorm2d(c, affine=False)) if "pool" in OPS[op] else made


class Cell(nn.Module):
    """Node i is the sum of its edges' operations on the nodes before it; nodes 0 and 1 are the
    outputs of the two cells before, and the other four, side by side, are the output.

    edges: {number of the edge in `EDGES`: what is on it}.
    """

    def __init__(
        self,
        edges: Mapping[int, int],
        c_before: int,
        c_last: int,
        c: int,
        halves: tuple[bool, bool],
        affine: bool,
        edge: Edge,
    ) -> None:
        super().__init__()
        before, reduces = halves
        self.before = (halving if before else ReLUConvBN)(c_before, c, affine)
        self.last = ReLUConvBN(c_last, c, affine)
        self.edges = nn.ModuleDict(
            {str(e): edge(op, c, 1 + (reduces and EDGES[e][1] < INPUTS)) for e, op in edges.items()}
        )

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        nodes = [self.before(before), self.last(last)]
        for first, target in zip(FIRST, NODES, strict=True):
            edges = [(str(first + j), node) for j, node in zip(range(target), nodes, strict=True)]
            terms = [self.edges[e](node) for e, node in edges if e in self.edges]
            nodes.append(reduce(torch.add, terms))
        forget(nodes)
        return torch.cat(nodes[INPUTS:], dim=1)


class Network(nn.Module):
    """Stem, cells (those after one and two thirds reduce), classifier.

    (b, in_channels, h, w) images, h and w multiples of 4 -> (b, num_classes) logits.

    edges: for the normal and the reduction cell, what is on each edge.
    """

    def __init__(
        self,
        edges: Sequence[Mapping[int, int]],
        num_classes: int,
        C: int,
        layers: int,
        in_channels: int,
        affine: bool = True,
        edge: Edge = operation,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, STEM * C, 3, padding=1, bias=False), nn.BatchNorm2d(STEM * C)
        )
        cells = []
        before = last = STEM * C
        c, halved = C, False
        for layer in range(layers):
            reduces = layer in (layers // 3, 2 * layers // 3)
            c *= 1 + reduces
            cells.append(Cell(edges[reduces], before, last, c, (halved, reduces), affine, edge))
            before, last, halved = last, len(NODES) * c, reduces
        self.cells = nn.ModuleList(cells)
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        before = last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last)
        return self.classifier(functional.adaptive_avg_pool2d(last, 1).flatten(1))


def standalone(
    space: Darts, arch: Archs, num_classes: int, C: int, layers: int, in_channels: int
) -> Network:
    """The network of one arch, as it is trained after the search."""
    cells = space.edges(arch[None])[0]
    edges = [{e: int(cell[e]) for e in np.flatnonzero(cell).tolist()} for cell in cells]
    return Network(edges, num_classes, C, layers, in_channels)


class DartsSupernet(Supernet):
    """The network with none and all seven operations on each of the 14 edges of both cells.

    Decisions 0 to 13 are the normal cell's, 14 to 27 the reduction cell's.
    """

    ops = OPS
    space: Darts

    def __init__(
        self,
        space: Darts,
        num_classes: int,
        in_channels: int,
        C: int = 16,
        layers: int = 8,
        partial: int = 1,
    ) -> None:
        if C % partial:
            raise NasplugError(f"C={C} channels do not divide into {partial} parts")
        if layers < 3:
            raise NasplugError(f"layers={layers}: a network with both cells has 3 or more")

        def edge(decision: int, c: int, stride: int) -> nn.Module:
            candidates = [candidate(op, c // partial, stride) for op in range(len(OPS))]
            return MixedOp(candidates, decision, partial)

        edges = [{e: cell * len(EDGES) + e for e in range(len(EDGES))} for cell in (0, 1)]
        decisions = tuple(f"{cell} {t}<-{s}" for cell in CELLS for t, s in EDGES)
        network = Network(edges, num_classes, C, layers, in_channels, affine=False, edge=edge)
        super().__init__(space, decisions, network)

    def chosen(self, archs: Archs) -> Bools:
        edges = self.space.edges(np.asarray(archs)).reshape(len(archs), -1)
        chosen = edges[..., None] == np.arange(len(OPS))
        chosen[..., 0] = False
        return chosen

    def select(self, scores: Floats) -> Archs:
        """Each edge's best operation but none; of each node the two edges whose best is best."""
        scores = scores.reshape(len(CELLS), len(EDGES), len(OPS))[..., 1:]
        best, op = scores.max(-1), 1 + scores.argmax(-1)
        edges = np.zeros_like(op)
        for cell in range(len(CELLS)):
            for target, first in zip(NODES, FIRST, strict=True):
                order = np.argsort(-best[cell, first : first + target], kind="stable")
                kept = first + order[:2]
                edges[cell, kept] = op[cell, kept]
        return self.space.from_edges(edges[None])[0]

    def groups(self) -> list[list[int]]:
        n = len(EDGES)
        return [[*range(n)], [*range(n, 2 * n)]]

    def incoming(self) -> list[list[int]]:
        return [
            [group[first + j] for j in range(target)]
            for group in self.groups()
            for target, first in zip(NODES, FIRST, strict=True)
        ]

    def region(self, mask: Bools) -> EdgeMask:
        return EdgeMask(self.space, mask.reshape(len(CELLS), len(EDGES), len(OPS))[..., 1:])

    def allowed(self, region: Region) -> Bools:
        allowed = np.ones((len(self.decisions), len(OPS)), bool)
        if isinstance(region, EdgeMask):
            allowed[:, 1:] = region.allowed.reshape(len(self.decisions), -1)
        elif region is not self.space:
            raise NasplugError(
                f"a supernet relaxes darts or an edge mask of it, not {region.describe()}"
            )
        return allowed
