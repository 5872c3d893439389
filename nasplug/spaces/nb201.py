"""NAS-Bench-201: cells of four nodes and six edges, one of five operations on each edge.

Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture
Search", ICLR 2020. The space is also the topology space of NATS-Bench.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError, unknown
from nasplug.space import Archs, Space

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE, SKIP, CONV_1X1, CONV_3X3, POOL = range(5)
KERNEL_AREA = np.array([0, 0, 1, 9, 0])  # weights per pair of channels

EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))  # (target, source), as in the string

COLORS = ("#c8ccd0", "#6b7280", "#4c9f70", "#2f6db5", "#d9822b")


class NB201(Space):
    """5^6 = 15,625 cells, 6,466 of them distinct up to isomorphism.

    >>> space = NB201()
    >>> space.to_str([3, 1, 0, 0, 4, 2])
    '|nor_conv_3x3~0|+|skip_connect~0|none~1|+|none~0|avg_pool_3x3~1|nor_conv_1x1~2|'
    """

    name = "nb201"

    def __init__(self) -> None:
        super().__init__({f"{target}<-{source}": OPS for target, source in EDGES})

    def to_str(self, arch: npt.ArrayLike) -> str:
        """One arch -> the official string, ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``."""
        ops = iter(np.asarray(arch).tolist())
        nodes = ["|".join(f"{OPS[next(ops)]}~{j}" for j in range(i)) for i in (1, 2, 3)]
        return "+".join(f"|{node}|" for node in nodes)

    def from_str(self, text: str) -> Archs:
        """The official string -> one arch (6,)."""
        nodes = text.strip().split("+")
        if len(nodes) != 3:
            raise NasplugError(
                f"a cell of nb201 has 3 nodes joined by '+', got {len(nodes)}: {text!r}; "
                f"an example is {self.to_str([CONV_3X3] * 6)}"
            )
        arch = []
        for i, node in enumerate(nodes, start=1):
            edges = node[1:-1].split("|")
            if not (len(node) > 1 and node[0] == node[-1] == "|" and len(edges) == i):
                expected = "|".join(f"OP~{j}" for j in range(i))
                raise NasplugError(f"node {i} of a cell reads |{expected}|, got {node!r}")
            for j, edge in enumerate(edges):
                op, _, source = edge.partition("~")
                if source != str(j):
                    raise NasplugError(f"edge {j} of node {i} reads OP~{j}, got {edge!r}")
                if op not in OPS:
                    raise unknown("operation of nb201", op, OPS)
                arch.append(OPS.index(op))
        return np.array(arch, dtype=self.dtype)

    def canonical(self, archs: Archs) -> Archs:
        """(n, 6) -> (n, 6): the arch of lowest index that computes the same expression."""
        return self.from_index(_representatives()[self.index(archs)])

    def params(
        self, archs: Archs, num_classes: int = 10, C: int = 16, N: int = 5, in_channels: int = 3
    ) -> npt.NDArray[np.int64]:
        """(n, 6) -> (n,): trainable parameters, those of batch norms included."""
        area, convs = _convolutions(archs)
        total = 9 * in_channels * C + 2 * C  # stem
        for c in (C, 2 * C):  # reductions from c to 2c: 3x3, 3x3, 1x1 and two batch norms
            total += (9 * 2 + 9 * 4 + 2) * c**2 + 2 * 2 * 2 * c
        total += 2 * 4 * C + (4 * C + 1) * num_classes  # batch norm and classifier
        return N * (area * (1 + 4 + 16) * C**2 + convs * (1 + 2 + 4) * 2 * C) + total

    def flops(
        self,
        archs: Archs,
        num_classes: int = 10,
        C: int = 16,
        N: int = 5,
        resolution: int = 32,
        in_channels: int = 3,
    ) -> npt.NDArray[np.int64]:
        """(n, 6) -> (n,): multiply-adds of one image, `resolution` a multiple of 4.

        As in the official tables only convolutions and the classifier (with its bias) count;
        batch norm, pooling and sums do not.
        """
        area, _ = _convolutions(archs)
        pixels = resolution**2
        total = 9 * in_channels * C * pixels
        total += 2 * (9 * 2 + 9 * 4 + 2) * C**2 * pixels // 4  # the second: 4 c^2, pixels / 4
        total += (4 * C + 1) * num_classes
        return 3 * N * area * C**2 * pixels + total  # the same for each of the three stages

    def build(
        self,
        arch: npt.ArrayLike,
        num_classes: int = 10,
        C: int = 16,
        N: int = 5,
        in_channels: int = 3,
    ) -> torch.nn.Module:
        """One arch -> the official network: 3 stages of N cells, C, 2C and 4C channels wide."""
        from nasplug.nn.nb201 import Network

        return Network(self.arch(arch).tolist(), num_classes, C, N, in_channels)

    def supernet(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        C: int = 16,
        layers: int = 5,
        partial: int = 1,
    ) -> torch.nn.Module:
        """All archs in one network of 3 stages of `layers` cells, of which 1/partial of the
        channels pass the operations."""
        from nasplug.nn.nb201 import NB201Supernet

        return NB201Supernet(self, num_classes, in_channels, C, layers, partial)

    def draw(self, arch: npt.ArrayLike, ax: Axes) -> None:
        """Draw the cell on matplotlib Axes; edges without an operation are dotted."""
        from matplotlib.patches import FancyArrowPatch

        ax.set(xlim=(-0.25, 3.25), ylim=(-0.8, 1.2), aspect="equal")
        ax.axis("off")
        for (target, source), op in zip(EDGES, self.arch(arch).tolist(), strict=True):
            # An edge that passes a node bends around it: up from the input, down from node 1.
            height = {1: 0.0, 2: 0.6, 3: 1.05}[target - source] * (-1 if source == 1 else 1)
            ax.add_patch(
                FancyArrowPatch(
                    (source, 0),
                    (target, 0),
                    connectionstyle=f"arc3,rad={-2 * height / (target - source)}",
                    arrowstyle="-|>",
                    mutation_scale=14,
                    shrinkA=15,
                    shrinkB=15,
                    color=COLORS[op],
                    linewidth=1 if op == NONE else 2.2,
                    linestyle=":" if op == NONE else "-",
                )
            )
            if op != NONE:
                ax.annotate(
                    OPS[op].replace("nor_", "").replace("_connect", "").replace("_", " "),
                    ((source + target) / 2, height),
                    xytext=(0, 0 if height else 8),
                    textcoords="offset points",
                    color=COLORS[op],
                    fontsize=9,
                    ha="center",
                    va="center",
                    bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none"}
                    if height
                    else None,
                )
        ax.scatter(range(4), [0] * 4, s=640, color="#1f2937", zorder=3)
        for node, label in enumerate(("in", "1", "2", "out")):
            ax.text(
                node, 0, label, color="white", weight="bold", ha="center", va="center", zorder=4
            )


def _convolutions(archs: Archs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(n, 6) -> (n,) kernel area and (n,) number of the convolutions of one cell."""
    area = KERNEL_AREA[np.asarray(archs)]
    return area.sum(-1), (area > 0).sum(-1)


@cache
def _representatives() -> npt.NDArray[np.int64]:
    """(15625,) index of each arch -> the lowest index in its class.

    Two archs are one class if the official ``to_unique_str(consider_zero=True)`` reads the
    same. That takes its strings as they are: a sum is sorted as text, a skipped sum melts
    into the next without being sorted again, and zeros stay in a sum. Cleaner algebra merges
    more (4,930 classes), so the strings are built here too, with the operations named
    by letters of the same alphabetical order.
    """
    letters = np.array(["", "", "b", "c", "a"])  # avg_pool < nor_conv_1x1 < nor_conv_3x3
    archs = np.indices((5,) * 6).reshape(6, -1)
    ops = iter(archs)
    nodes = [np.full(5**6, "0")]
    for _ in range(3):
        terms = []
        for source in nodes:
            op = next(ops)
            applied = np.char.add(np.char.add(np.char.add("(", source), ")@"), letters[op])
            zero = (op == NONE) | (source == "#")
            terms.append(np.where(zero, "#", np.where(op == SKIP, source, applied)))
        first, *rest = np.sort(np.stack(terms), axis=0)
        for term in rest:
            first = np.char.add(np.char.add(first, "+"), term)
        nodes.append(first)
    _, lowest, which = np.unique(nodes[-1], return_index=True, return_inverse=True)
    return lowest[which]
