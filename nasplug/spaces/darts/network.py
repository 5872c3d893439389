"""The network of DARTS around its two cells (Liu, Simonyan and Yang, ICLR 2019)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs, Space
from nasplug.kernel.subspace import Mask, Region
from nasplug.nn.convolution import AvgPool, Depthwise, Pointwise
from nasplug.nn.mixed import Bools, MixedOp, Op, Shared, Zero, check_partial, forget
from nasplug.nn.supernet import Floats, Supernet
from nasplug.spaces.darts.space import (
    CELLS,
    EDGES,
    FIRST,
    INPUTS,
    NODES,
    Darts,
    EdgeMask,
)
from nasplug.spaces.darts.space import OPS as SEARCHED

OPS = ("none", *SEARCHED)
WORST = -1e30  # the score of what is only selected if nothing else is left

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
    bare = operation(op, c, stride, affine=False)
    return Op(bare, nn.BatchNorm2d(c, affine=False)) if "pool" in OPS[op] else bare


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

    @property
    def branches(self) -> list[nn.Module]:
        """What drop-path may drop."""
        return [op for op in self.edges.values() if not isinstance(op, nn.Identity)]

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

    (b, channels, h, w) images, h and w multiples of 4 -> (b, classes) logits.

    edges: for the normal and the reduction cell, what is on each edge.
    """

    def __init__(
        self,
        space: Darts,
        edges: Sequence[Mapping[int, int]],
        affine: bool = True,
        edge: Edge = operation,
    ) -> None:
        super().__init__()
        c, layers = space.sizes["C"], space.sizes["layers"]
        self.side = space.sizes["resolution"] // 4  # of an image after both reductions
        before = last = space.STEM * c
        self.stem = nn.Sequential(
            nn.Conv2d(space.sizes["channels"], last, 3, padding=1, bias=False),
            nn.BatchNorm2d(last),
        )
        cells = []
        halved = False
        for layer in range(layers):
            reduces = layer in (layers // 3, 2 * layers // 3)
            c *= 1 + reduces
            cells.append(Cell(edges[reduces], before, last, c, (halved, reduces), affine, edge))
            before, last, halved = last, len(NODES) * c, reduces
        self.cells = nn.ModuleList(cells)
        self.classifier = nn.Linear(last, space.sizes["classes"])

    def auxiliary(self) -> tuple[nn.Module, nn.Module]:
        """The cell whose output an auxiliary head takes while the network is trained: the second
        reduction; and a new head, (b, c, h, w) -> (b, classes)."""
        c = self.classifier.in_features
        # DARTS's 8x8 images are pooled to 2x2 in windows of 5; others to 2x2 as well.
        pool = nn.AvgPool2d(5, 3) if self.side == 8 else nn.AdaptiveAvgPool2d(2)
        head = nn.Sequential(
            nn.ReLU(), pool,
            nn.Conv2d(c, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False), nn.BatchNorm2d(768), nn.ReLU(),
            nn.Flatten(), nn.Linear(768, self.classifier.out_features),
        )  # fmt: skip
        return self.cells[2 * len(self.cells) // 3], head

    def forward(self, x: Tensor) -> Tensor:
        before = last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last)
        return self.classifier(functional.adaptive_avg_pool2d(last, 1).flatten(1))


def build(space: Darts, arch: Archs) -> Network:
    """The network of one arch, without its auxiliary head."""
    cells = space.edges(arch[None])[0]
    edges = [{e: int(cell[e]) for e in np.flatnonzero(cell).tolist()} for cell in cells]
    return Network(space, edges)


def supernet(space: Darts, region: Region, partial: int) -> DartsSupernet:
    return DartsSupernet(space, partial)


class DartsSupernet(Supernet):
    """The network with none and all seven operations on each of the 14 edges of both cells.

    Decisions 0 to 13 are the normal cell's, 14 to 27 the reduction cell's.
    """

    space: Darts

    def __init__(self, space: Darts, partial: int = 1) -> None:
        check_partial(space.sizes["C"], partial)

        def edge(decision: int, c: int, stride: int) -> nn.Module:
            candidates = [candidate(op, c // partial, stride) for op in range(len(OPS))]
            return MixedOp(candidates, decision, partial, stride)

        edges = [{e: cell * len(EDGES) + e for e in range(len(EDGES))} for cell in (0, 1)]
        decisions = {f"{cell} {t}<-{s}": OPS for cell in CELLS for t, s in EDGES}
        fixed, operations = space.cost_tables
        costs = np.zeros((len(decisions), len(OPS)))
        entering = [int(source < INPUTS) for _, source in EDGES]
        costs[:, 1:] = operations[1][:, entering].reshape(len(decisions), -1)
        network = Network(space, edges, affine=False, edge=edge)
        super().__init__(space, network, decisions, costs, fixed[1])

    def chosen(self, archs: Archs) -> Bools:
        edges = self.space.edges(np.asarray(archs)).reshape(len(archs), -1)
        chosen = edges[..., None] == np.arange(len(OPS))
        chosen[..., 0] = False
        return chosen

    def select(self, scores: Floats, region: Region | None = None) -> Archs:
        """Each edge's best operation but none; of each node the two edges whose best is best.

        In a mask of the decisions of the space, the best pair of edges that it allows.
        """
        scores = np.maximum(scores, WORST).reshape(len(CELLS), len(EDGES), len(OPS))[..., 1:]
        inputs, ops = _offered(self.space, region)
        nodes = []
        for cell in range(len(CELLS)):
            for node, (target, first) in enumerate(zip(NODES, FIRST, strict=True)):
                edges = scores[cell, first : first + target]
                slots = np.where(ops[cell, node][:, None], edges, -np.inf)  # (2, target, 7)
                best = np.where(inputs[cell, node][:, :target], slots.max(-1), -np.inf)
                pairs = best[0][:, None] + best[1]
                np.fill_diagonal(pairs, -np.inf)
                for slot, source in enumerate(np.unravel_index(pairs.argmax(), pairs.shape)):
                    nodes += [int(source), int(slots[slot, source].argmax())]
        return np.array(nodes, self.space.dtype)

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
        """Also of a mask of the decisions of the space: what either input of a node may take."""
        allowed = self.exists
        if isinstance(region, EdgeMask):
            allowed[:, 1:] = region.allowed.reshape(len(self.decisions), -1)
        elif isinstance(region, Mask):
            inputs, ops = _offered(self.space, region)
            first, second = inputs[..., 0, :, None], inputs[..., 1, None, :]
            if not (first & second & ~np.eye(NODES[-1], dtype=bool)).any((-1, -2)).all():
                raise NasplugError(f"{region.describe()} leaves a node no two different inputs")
            both = inputs[..., None] & ops[..., None, :]  # cell, node, slot, input, operation
            edges = [
                both[cell, node, :, :target].any(0)
                for cell in range(len(CELLS))
                for node, target in enumerate(NODES)
            ]
            allowed[:, 1:] = np.concatenate(edges)
            allowed[:, 0] = True
        elif not isinstance(region, Space):
            raise self.refuse(region)
        return allowed


def _offered(space: Darts, region: Region | None) -> tuple[Bools, Bools]:
    """(2, 4, 2, 5) inputs and (2, 4, 2, 7) operations that each of the two slots of each node
    may take, by cell, node and slot."""
    shape = len(CELLS), len(NODES), 2, 2
    if isinstance(region, Mask):
        allowed = region.allowed.reshape(*shape, -1)
    else:
        allowed = (np.arange(len(SEARCHED)) < space.cardinalities[:, None]).reshape(*shape, -1)
    return allowed[..., 0, : NODES[-1]], allowed[..., 1, :]
