"""The network of NAS-Bench-201 around a cell (Dong and Yang, ICLR 2020, section 2.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn

from nasplug.kernel.space import Archs
from nasplug.kernel.subspace import Region
from nasplug.nn.convolution import AvgPool, Pointwise, convolution
from nasplug.nn.mixed import MixedOp, Op, Shared, Zero, check_partial, forget
from nasplug.nn.supernet import Supernet, one_choice_costs
from nasplug.spaces.nb201.space import CONV_1X1, CONV_3X3, NB201, NONE, OPS, SKIP

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
    """The operation of an edge, in the order of `OPS`, at c channels."""
    if op == NONE:
        return Zero()
    if op == SKIP:
        return nn.Identity()
    if op in (CONV_1X1, CONV_3X3):
        return ReLUConvBN(c, c, kernel=1 if op == CONV_1X1 else 3, affine=affine)
    return Shared(AvgPool())


class Cell(nn.Module):
    """Node i is the sum over j < i of operation (i, j) applied to node j; node 3 is the output."""

    def __init__(self, arch: Sequence[int], c: int, edge: Edge = operation) -> None:
        super().__init__()
        self.ops = nn.ModuleList(edge(op, c) for op in arch)

    @property
    def branches(self) -> list[nn.Module]:
        """What drop-path may drop."""
        return [op for op in self.ops if not isinstance(op, nn.Identity | Zero)]

    def forward(self, x: Tensor) -> Tensor:
        ops = iter(self.ops)
        nodes = [x]
        for _ in range(3):
            nodes.append(reduce(torch.add, [next(ops)(node) for node in nodes]))
        forget(nodes)
        return nodes[-1]


class Reduction(nn.Module):
    """A residual block of twice the channels and, with a stride of 2, half the resolution."""

    def __init__(self, c: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ReLUConvBN(c, 2 * c, kernel=3, stride=stride), ReLUConvBN(2 * c, 2 * c, kernel=3)
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(stride), Pointwise(c, 2 * c))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


class Network(nn.Sequential):
    """Stem, N cells, reduction, N cells, reduction, N cells, classifier.

    (b, channels, h, w) images, h and w multiples of 4 -> (b, classes) logits; a dense one, whose
    classifier is a 1x1 convolution, takes any h and w, keeps them, and gives (b, classes, h, w).
    """

    def __init__(self, space: NB201, arch: Sequence[int], edge: Edge = operation) -> None:
        C, N, classes, dense = (space.sizes[name] for name in ("C", "N", "classes", "dense"))
        stride = 1 if dense else 2
        pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * C, classes)
        super().__init__(
            nn.Sequential(
                nn.Conv2d(space.sizes["channels"], C, 3, padding=1, bias=False), nn.BatchNorm2d(C)
            ),
            *(Cell(arch, C, edge) for _ in range(N)),
            Reduction(C, stride),
            *(Cell(arch, 2 * C, edge) for _ in range(N)),
            Reduction(2 * C, stride),
            *(Cell(arch, 4 * C, edge) for _ in range(N)),
            nn.BatchNorm2d(4 * C),
            nn.ReLU(),
            *([nn.Conv2d(4 * C, classes, 1)] if dense else pooled),
        )


def build(space: NB201, arch: Archs) -> Network:
    """The official network of one arch."""
    return Network(space, arch.tolist())


def supernet(space: NB201, region: Region, partial: int) -> NB201Supernet:
    return NB201Supernet(space, partial)


class NB201Supernet(Supernet):
    """The network with all five operations on each of the six edges, shared by all cells.

    Batch norms of the operations are not affine and use the statistics of the batch.
    """

    space: NB201

    def __init__(self, space: NB201, partial: int = 1) -> None:
        check_partial(space.sizes["C"], partial)

        def edge(decision: int, c: int) -> nn.Module:
            candidates = [operation(op, c // partial, affine=False) for op in range(len(OPS))]
            return MixedOp(candidates, decision, partial)

        choices = dict.fromkeys(space.names, OPS)
        costs, fixed = one_choice_costs(space, np.zeros(space.d, np.int64))
        super().__init__(space, Network(space, range(space.d), edge), choices, costs, fixed)

    def incoming(self) -> list[list[int]]:
        return [[0], [1, 2], [3, 4, 5]]
