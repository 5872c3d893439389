"""NAS-Bench-201: cells of four nodes and six edges, one of five operations on each edge.

Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture
Search", ICLR 2020. The space is also the topology space of NATS-Bench.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError, unknown
from nasplug.kernel.space import Archs
from nasplug.spaces.cost import Cost, conv, linear
from nasplug.spaces.sized import Sized, multiple_of_four

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE, SKIP, CONV_1X1, CONV_3X3, POOL = range(5)

EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))  # (target, source), as in the string
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))  # edges from the input to the output

COLORS = ("#c8ccd0", "#6b7280", "#4c9f70", "#2f6db5", "#d9822b")


class NB201(Sized):
    """5^6 = 15,625 cells, 6,466 of them distinct up to isomorphism.

    The network: 3 stages of N cells, C, 2C and 4C channels wide, the images halved between them; a
    dense one keeps their resolution. On the digits cells in a smaller one train faster, but all
    alike: the rank correlation of two seeds is 0.81 at N=3 and at most 0.63 at N=1 (30 random
    archs).

    >>> space = NB201()
    >>> space.to_str([3, 1, 0, 0, 4, 2])
    '|nor_conv_3x3~0|+|skip_connect~0|none~1|+|none~0|avg_pool_3x3~1|nor_conv_1x1~2|'
    """

    base = "nb201"
    network = "nasplug.spaces.nb201.network"
    presets: ClassVar = {
        "": {
            "C": 16, "N": 5, "channels": 3, "classes": 10,
            "resolution": 32, "columns": 0, "dense": 0,
        },
        "cifar100": {"classes": 100},
        "imagenet16-120": {"classes": 120, "resolution": 16},
        "digits": {"C": 8, "N": 3, "channels": 1, "resolution": 8},
        "darcy": {"C": 4, "N": 1, "channels": 1, "classes": 1, "resolution": 29, "dense": 1},
        "japanese-vowels": {
            "C": 8, "N": 1, "channels": 1, "classes": 9, "resolution": 12, "columns": 32,
        },
    }  # fmt: skip

    def find_decisions(self) -> dict[str, tuple[str, ...]]:
        return {f"{target}<-{source}": OPS for target, source in EDGES}

    def check_sizes(self) -> None:
        if not self.sizes["dense"]:
            multiple_of_four(self)

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

    def paths(self, archs: Archs) -> npt.NDArray[np.float32]:
        """(n, 6) -> (n, 84): which sequences of operations lead from input to output.

        The path encoding of White et al., "BANANAS", AAAI 2021: 4 + 16 + 64 sequences, by length
        and then in lexicographic order. In the authors' code none is an operation of a path, too.
        """
        ops = np.asarray(archs)[:, :, None] == np.arange(1, len(OPS))  # (n, 6, 4)
        found = []
        for length in (1, 2, 3):
            there = [_along(ops, path) for path in PATHS if len(path) == length]
            found.append(np.any(there, axis=0))
        return np.concatenate(found, axis=1).astype(np.float32)

    def costs(self, archs: Archs) -> Cost:
        """(n, 6) -> (2, n): parameters, and multiply-adds of one image.

        As in the official tables only convolutions and the classifier (with its bias, unless it is
        dense) count as multiply-adds; batch norms, pooling and sums do not.
        """
        C, N, classes, dense = (self.sizes[name] for name in ("C", "N", "classes", "dense"))
        channels, *sides = self.shape
        each = np.array([1, np.prod(sides)])  # how often a pixel's parameters and multiply-adds are
        total = conv(channels, C, 3, 1) * each
        total += linear(4 * C, classes) * each if dense else (4 * C + 1) * classes
        total[0] += 2 * 4 * C  # the last batch norm
        of_ops = np.zeros((2, len(OPS)), np.int64)
        for stage in range(3):
            c = C << stage
            for op, kernel in ((CONV_1X1, 1), (CONV_3X3, 3)):
                of_ops[:, op] += N * conv(c, c, kernel, 1) * each
            if stage < 2:  # a residual block, whose shortcut has no batch norm
                each[1] //= 1 if dense else 4
                block = conv(c, 2 * c, 3, 1) + conv(2 * c, 2 * c, 3, 1)
                total += (block + conv(c, 2 * c, 1, 1, bn=False)) * each
        return total[:, None] + of_ops[:, np.asarray(archs)].sum(-1)

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


def _along(ops: npt.NDArray[np.bool_], path: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """(n, edges, o) one-hot operations -> (n, o^len) which sequence lies along a path."""
    found = ops[:, path[0]]
    for edge in path[1:]:
        found = (found[:, :, None] & ops[:, edge, None]).reshape(len(ops), -1)
    return found


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
