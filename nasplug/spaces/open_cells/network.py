"""Open cells as networks, and the supernet in which spaces of them evolve."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn

from nasplug.kernel.space import Archs
from nasplug.kernel.subspace import Layered
from nasplug.nn.blocks import ConvBNReLU, project
from nasplug.nn.data import Images, Part
from nasplug.nn.mixed import Bools, MixedOp, batch_statistics, unmixed
from nasplug.nn.training import score
from nasplug.spaces.open_cells.space import (
    AGGREGATIONS,
    EDGES,
    EXPANSIONS,
    LARGER,
    OPS,
    OpenCells,
    live,
)
from nasplug.spaces.skeleton.network import LayeredSupernet
from nasplug.spaces.skeleton.space import Layer


class Halve(nn.Module):
    """(b, c, h, w) -> (b, c, h/2, w/2): every other pixel. The identity where shapes change."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., ::2, ::2]


def operation(op: int, hidden: int, stride: int) -> nn.Module:
    """The operation of an edge, in the order of `OPS` and `LARGER`, zero excepted."""
    match name := (*OPS, *LARGER)[op]:
        case "identity":
            return nn.Identity() if stride == 1 else Halve()
        case "conv_1x1":
            return ConvBNReLU(hidden, hidden, 1, stride)
        case "conv_3x3":
            return ConvBNReLU(hidden, hidden, 3, stride)
        case _:
            return ConvBNReLU(hidden, hidden, int(name[-1]), stride, depthwise=True)


def aggregate(terms: list[Tensor], how: int) -> Tensor:
    match AGGREGATIONS[how]:
        case "sum":
            return reduce(torch.add, terms)
        case "mean":
            return reduce(torch.add, terms) / len(terms)
        case _:
            return reduce(torch.mul, terms)


def stride_of(edge: int, layer: Layer) -> int:
    """Edges from the input node change the resolution."""
    return layer.stride if EDGES[edge][1] == 0 else 1


class Cell(nn.Module):
    """(b, c_in, h, w) -> (b, c_out, h/s, w/s): one open cell that computes something.

    edges: {number of the edge in `EDGES`: its operation}, those that are live.
    """

    def __init__(
        self, expand: nn.Module, edges: Mapping[str, nn.Module], last: nn.Module, aggregation: int
    ) -> None:
        super().__init__()
        self.expand, self.edges, self.project = expand, nn.ModuleDict(edges), last
        self.aggregation = aggregation

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        nodes: list[Tensor | None] = [self.expand(x), None, None, None]
        for target in (1, 2, 3):
            terms = [
                self.edges[str(e)](nodes[source])
                for e, (to, source) in enumerate(EDGES)
                if to == target and str(e) in self.edges
            ]
            nodes[target] = aggregate(terms, self.aggregation) if terms else None
        return self.project(nodes[3], scale)


def layer(shape: Layer, choice: Archs) -> Cell | None:
    """The cell of a choice (8,), with weights of its own; None if it computes nothing."""
    if not live(choice).any():
        return None
    *ops, aggregation, expansion = choice.tolist()
    hidden = EXPANSIONS[expansion] * shape.c_in
    expand = ConvBNReLU(shape.c_in, hidden, 1)
    edges = {
        str(e): operation(ops[e], hidden, stride_of(e, shape))
        for e in np.flatnonzero(live(choice)).tolist()
    }
    return Cell(expand, edges, project(hidden, shape.c_out), aggregation)


class Bank(nn.Module):
    """The weights of all cells of a layer, shared by whatever cells have an operation in common.

    So a cell that evolution has just made inherits what its operations have learned in others
    (ENAS). Operations of which no affordable cell can make use are not there.

    affordable: (2, O), by expansion and operation, of the first O.
    """

    def __init__(self, layer: Layer, affordable: Bools) -> None:
        super().__init__()
        self.expand, self.project, self.operations = (nn.ModuleDict() for _ in range(3))
        for k, expansion in enumerate(EXPANSIONS):
            hidden = expansion * layer.c_in
            if not affordable[k].any():
                continue
            self.expand[str(k)] = ConvBNReLU(layer.c_in, hidden, 1)
            self.project[str(k)] = project(hidden, layer.c_out)
            for e in range(len(EDGES)):
                for op in np.flatnonzero(affordable[k]).tolist():
                    if op:
                        self.operations[f"{k},{e},{op}"] = operation(
                            op, hidden, stride_of(e, layer)
                        )

    def cell(self, cell: Archs) -> Cell:
        """A cell on these weights, the modules themselves and not copies."""
        *ops, aggregation, expansion = cell.tolist()
        edges = {
            str(e): self.operations[f"{expansion},{e},{ops[e]}"]
            for e in np.flatnonzero(live(cell)).tolist()
        }
        k = str(expansion)
        return Cell(self.expand[k], edges, self.project[k], aggregation)


class OpenSupernet(LayeredSupernet):
    """A supernet that holds some cells in each layer at a time, on weights that all cells share.

    affordable: (L, 2, O), by layer, expansion and operation; see `Bank`. layers: the cells that it
    holds first; `hold` gives it others.
    """

    space: OpenCells

    def __init__(self, space: OpenCells, affordable: Bools, layers: Layered) -> None:
        self.mixed = [MixedOp([], i, 1, x.stride) for i, x in enumerate(space.layers)]
        self.banks = [Bank(layer, a) for layer, a in zip(space.layers, affordable, strict=True)]
        super().__init__(space, self.mixed, layers)
        self.shared = batch_statistics(nn.ModuleList(self.banks))

    def hold(self, layers: Layered) -> None:
        super().hold(layers)
        self.cells = [
            [bank.cell(cell) if live(cell).any() else None for cell in rows]
            for bank, rows in zip(self.banks, layers.choices, strict=True)
        ]

    def mix(self, weights: Tensor | None, mask: Bools, gates: Tensor | None = None) -> None:
        for i, (op, cells) in enumerate(zip(self.mixed, self.cells, strict=True)):
            op.terms = [
                (cell, None if weights is None else weights[i, k])
                for k, cell in enumerate(cells)
                if mask[i, k] and cell is not None
            ]

    def restrict(self, arch: Archs) -> None:
        """Hold and use the cells of one arch only."""
        self.hold(Layered(self.space, self.space.split(arch)[0][:, None]))
        self.mix(None, self.exists)

    def inherit(self, arch: Archs) -> nn.Module:
        held = self.layers
        self.restrict(arch)
        model = unmixed(self.network)
        self.hold(held)
        return model

    def score(self, arch: Archs, data: Images, part: Part, limit: int | None = None) -> float:
        held = self.layers
        self.restrict(arch)
        result = score(self, data, part, limit)
        self.hold(held)
        return result
