"""DARTS: a normal and a reduction cell of four nodes, each node fed by two of those before it.

Liu, Simonyan and Yang, "DARTS: Differentiable Architecture Search", ICLR 2019. The space is
also that of NAS-Bench-301.
"""

from __future__ import annotations

import math
import re
from functools import cache, cached_property
from itertools import permutations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError, unknown
from nasplug.kernel.space import Archs, Seed
from nasplug.kernel.subspace import Subspace
from nasplug.spaces.cost import Cost, conv, linear
from nasplug.spaces.sized import Sized, multiple_of_four

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OPS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
CELLS = ("normal", "reduce")
INPUTS = 2  # the outputs of the two cells before
NODES = range(INPUTS, INPUTS + 4)

# (target, source) of each edge that a cell may have, in the order of the authors' supernet.
EDGES = [(target, source) for target in NODES for source in range(target)]
FIRST = np.array([EDGES.index((target, 0)) for target in NODES])  # edge of each node
TARGET, SOURCE = np.array(EDGES).T

CELL = re.compile(r"\b(normal|reduce)\s*=\s*\[(.*?)\]", re.DOTALL)
CONCAT = re.compile(r"_concat\s*=\s*(range\(2, 6\)|\[2, 3, 4, 5\])")
EDGE = re.compile(r"\(\s*['\"](\w+)['\"]\s*,\s*(\d+)\s*\)")

COLORS = ("#d9822b", "#e0b04a", "#6b7280", "#2f6db5", "#1d3f72", "#4c9f70", "#256b45")
SPOTS = ((0, 0.5), (0, -0.9), (1.5, 1.2), (2.7, -1.2), (3.9, 0.5), (5, -0.6), (6.2, 0))


class Darts(Sized):
    """(180 * 7^8)^2 = 1.1e18 pairs of cells, isomorphs included, in 32 decisions.

    Of each node of each cell: input 0, its operation, input 1, its operation. The two inputs
    differ. Isomorphs are the same cell with the pairs of a node swapped or nodes relabelled.

    The network has `layers` cells, of which those after one and two thirds reduce, C channels
    wide at first. C=16 and 8 layers are what the paper searches with; the networks that it
    reports are ``darts:C=36,layers=20``.
    """

    base = "darts"
    network = "nasplug.spaces.darts.network"
    presets: ClassVar = {
        "": {"C": 16, "layers": 8, "channels": 3, "classes": 10, "resolution": 32},
        "cifar100": {"classes": 100},
        "digits": {"C": 8, "layers": 4, "channels": 1, "resolution": 8},
    }
    STEM = 3  # times C

    def find_decisions(self) -> dict[str, tuple[Any, ...]]:
        return {
            f"{cell}{node}.{name}{k}": values
            for cell in CELLS
            for node in NODES
            for k in (0, 1)
            for name, values in (("input", tuple(range(node))), ("op", OPS))
        }

    def check_sizes(self) -> None:
        multiple_of_four(self)
        if self.sizes["layers"] < 3:
            raise NasplugError(
                f"layers={self.sizes['layers']}: a network with both cells has 3 or more"
            )

    @property
    def count(self) -> int:
        inputs = math.prod(math.comb(node, INPUTS) for node in NODES)
        return (inputs * len(OPS) ** (2 * len(NODES))) ** len(CELLS)

    def _nodes(self, archs: Archs) -> Archs:
        """(n, 32) -> (n, 2, 4, 2, 2): cell, node, which of its two, input and operation."""
        return np.asarray(archs).reshape(len(archs), len(CELLS), len(NODES), 2, 2)

    def is_valid(self, archs: Archs) -> npt.NDArray[np.bool_]:
        """The two inputs of each node differ."""
        inputs = self._nodes(archs)[..., 0]
        return (inputs[..., 0] != inputs[..., 1]).all((1, 2))

    def sample(self, n: int, seed: Seed = None) -> Archs:
        """n archs, (n, 32), drawn uniformly: the second of a node's inputs skips the first."""
        rng = np.random.default_rng(seed)
        archs = rng.integers(0, self.cardinalities, (n, self.d), self.dtype)
        inputs = self._nodes(archs)[..., 0]
        second = rng.integers(0, np.array(NODES) - 1, inputs.shape[:-1], self.dtype)
        inputs[..., 1] = second + (second >= inputs[..., 0])
        return archs

    # ---- the edges of the supernet

    def edges(self, archs: Archs) -> npt.NDArray[np.int64]:
        """(n, 32) -> (n, 2, 14): 1 + the operation on each edge of each cell, 0 for no edge."""
        nodes = self._nodes(archs).astype(np.int64)
        which = (nodes[..., 0] + FIRST[:, None]).reshape(len(archs), len(CELLS), 2 * len(NODES))
        result = np.zeros((len(archs), len(CELLS), len(EDGES)), np.int64)
        np.put_along_axis(result, which, nodes[..., 1].reshape(which.shape) + 1, axis=2)
        return result

    def from_edges(self, edges: npt.NDArray[np.int64]) -> Archs:
        """(n, 2, 14), two edges into each node -> (n, 32), the inverse of `edges`."""
        rows, cells, which = np.nonzero(edges)
        pairs = np.stack([SOURCE[which], edges[rows, cells, which] - 1], -1)
        return pairs.reshape(len(edges), self.d).astype(self.dtype)

    def canonical(self, archs: Archs) -> Archs:
        """(n, 32) -> (n, 32): the nodes relabelled for the smallest code, pairs by input."""
        codes = (self.edges(archs).astype(np.float64) @ _relabelled()).min(-1).astype(np.int64)
        base = len(OPS) + 1
        return self.from_edges(codes[..., None] // base ** np.arange(len(EDGES)) % base)

    def features(self, archs: Archs) -> npt.NDArray[np.float32]:
        """(n, 32) -> (n, 196): one-hot, the operation on each edge of the canonical cells."""
        edges = self.edges(self.canonical(archs))
        one_hot = edges[..., None] == np.arange(1, len(OPS) + 1)
        return one_hot.reshape(len(edges), len(CELLS) * len(EDGES) * len(OPS)).astype(np.float32)

    # ---- costs

    def costs(self, archs: Archs) -> Cost:
        """(n, 32) -> (2, n): of the network without its auxiliary head."""
        fixed, table = self.cost_tables
        nodes = self._nodes(archs)
        entering = (nodes[..., 0] < INPUTS).astype(np.int64)
        cell = np.arange(len(CELLS))[:, None, None]
        return fixed[:, None] + table[:, cell, entering, nodes[..., 1]].sum((2, 3, 4))

    @cached_property
    def cost_tables(self) -> tuple[Cost, Cost]:
        """(2,) what every network has, and (2, 2, 2, 7) each operation, by cell and by whether
        its input is one of the cell's own, summed over all cells of the network."""
        side, channels, layers = (self.sizes[name] for name in ("resolution", "C", "layers"))
        before, last = self.STEM * channels, self.STEM * channels  # channels of the cell's inputs
        fixed = conv(self.sizes["channels"], last, 3, side)
        table = np.zeros((2, len(CELLS), 2, len(OPS)), np.int64)
        for layer in range(layers):
            reduces = layer in (layers // 3, 2 * layers // 3)
            channels *= 1 + reduces
            fixed += conv(before, channels, 1, side) + conv(last, channels, 1, side)
            side //= 1 + reduces
            for entering in (0, 1):
                ops = [_op(op, channels, side, reduces and bool(entering)) for op in OPS]
                table[:, int(reduces), entering] += np.array(ops).T
            before, last = last, len(NODES) * channels
        return fixed + linear(last, self.sizes["classes"]), table

    # ---- pictures

    def draw(self, arch: npt.ArrayLike, ax: Axes) -> None:
        """Draw both cells on matplotlib Axes, the normal cell above the reduction cell."""
        ax.set(xlim=(-0.6, 6.8), ylim=(-5.4, 2.2), aspect="equal")
        ax.axis("off")
        edges = self.edges(self.arch(arch)[None])[0]
        for cell, name, top in zip(edges, CELLS, (0.0, -3.7), strict=True):
            _draw_cell(cell, name, top, ax)
        for op in np.unique(edges[edges > 0]) - 1:
            label = OPS[op].replace("_connect", "").replace("_", " ")
            ax.plot([], color=COLORS[op], lw=3, label=label)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=4, frameon=False)

    # ---- strings

    def to_str(self, arch: npt.ArrayLike) -> str:
        """One arch -> the text of the authors' Genotype."""
        cells = []
        for cell, nodes in zip(CELLS, self._nodes(np.asarray(arch)[None])[0], strict=True):
            edges = [(OPS[op], int(source)) for source, op in nodes.reshape(-1, 2)]
            cells.append(f"{cell}={edges}, {cell}_concat=range(2, 6)")
        return f"Genotype({', '.join(cells)})"

    def from_str(self, text: str) -> Archs:
        """The text of a Genotype -> one arch (32,)."""
        cells = dict(CELL.findall(text))
        if set(cells) != set(CELLS) or len(CONCAT.findall(text)) != text.count("_concat"):
            raise NasplugError(
                f"an arch of {self.name} reads Genotype(normal=[('sep_conv_3x3', 0), ...], "
                "normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6)), "
                f"got {text!r}"
            )
        arch = []
        for cell in CELLS:
            edges = EDGE.findall(cells[cell])
            if len(edges) != 2 * len(NODES) or EDGE.sub("", cells[cell]).strip(", \n"):
                raise NasplugError(
                    f"the {cell} cell of {self.name} has {2 * len(NODES)} pairs "
                    f"('operation', input), two for each node, got {cells[cell]!r}"
                )
            for i, (op, source) in enumerate(edges):
                if op not in OPS:
                    raise unknown(f"operation of {self.name}", op, OPS)
                if int(source) >= NODES[i // 2]:
                    raise NasplugError(
                        f"node {NODES[i // 2]} of the {cell} cell takes inputs 0 to "
                        f"{NODES[i // 2] - 1}, got {source}"
                    )
                arch += [int(source), OPS.index(op)]
        return np.array(arch, self.dtype)


def _op(op: str, channels: int, side: int, reduces: bool) -> Cost:
    """One operation of the network; its output is side x side."""
    kind, _, size = op.rpartition("_")
    if kind == "skip":  # two halves of a 1x1 convolution where it reduces
        return conv(channels, channels, 1, side) * reduces
    if kind.endswith("pool"):
        return np.zeros(2, np.int64)
    depthwise = conv(channels, channels, int(size[0]), side, groups=channels, bn=False)
    separable = depthwise + conv(channels, channels, 1, side)
    return 2 * separable if kind == "sep_conv" else separable


class EdgeMask(Subspace):
    """The archs whose edges hold allowed operations only; of each node any two of its edges.

    allowed: (2, 14, 7) booleans, by cell, edge of the supernet and operation.
    """

    def __init__(self, space: Darts, allowed: npt.ArrayLike) -> None:
        self.space: Darts = space
        self.allowed = np.asarray(allowed, dtype=bool)
        if self.allowed.shape != (len(CELLS), len(EDGES), len(OPS)):
            raise NasplugError(
                f"an edge mask of darts has shape {(len(CELLS), len(EDGES), len(OPS))}, "
                f"got {self.allowed.shape}"
            )
        for cell, name in enumerate(CELLS):
            for node, pairs in zip(NODES, self._pairs(cell), strict=True):
                if not pairs.any():
                    raise NasplugError(f"the mask leaves node {node} of the {name} cell no inputs")

    def _pairs(self, cell: int) -> list[npt.NDArray[np.int64]]:
        """Of each node (k, k): how many pairs of operations its two inputs i and j can have."""
        counts = self.allowed[cell].sum(-1)
        of_nodes = [counts[first : first + k] for first, k in zip(FIRST, NODES, strict=True)]
        return [np.outer(n, n) * ~np.eye(len(n), dtype=bool) for n in of_nodes]

    def arrays(self) -> dict[str, npt.NDArray[np.bool_]]:
        return {"allowed": self.allowed}

    @property
    def size(self) -> int:
        cells = range(len(CELLS))
        return math.prod(int(pairs.sum()) for cell in cells for pairs in self._pairs(cell))

    def includes(self, archs: Archs) -> npt.NDArray[np.bool_]:
        taken = self.space.edges(archs)[..., None] == np.arange(1, len(OPS) + 1)
        return np.asarray((self.allowed | ~taken).all((1, 2, 3)))

    def sample(self, n: int, seed: Seed = None) -> Archs:
        rng = np.random.default_rng(seed)
        archs = np.empty((n, self.space.d), self.space.dtype)
        nodes = self.space._nodes(archs)
        for cell in range(len(CELLS)):
            for i, pairs in enumerate(self._pairs(cell)):
                drawn = rng.choice(pairs.size, n, p=pairs.ravel() / pairs.sum())
                inputs = np.stack(np.divmod(drawn, len(pairs)), -1)
                noise = rng.random((n, 2, len(OPS)))
                ops = np.where(self.allowed[cell, FIRST[i] + inputs], noise, -1).argmax(-1)
                nodes[:, cell, i] = np.stack([inputs, ops], -1)
        return archs

    def describe(self) -> str:
        return f"edge mask of darts: {self.size:.2g} points, {self.allowed.sum()} operations"


def _draw_cell(edges: npt.NDArray[np.int64], name: str, top: float, ax: Axes) -> None:
    """One cell (14,), its middle at height `top`."""
    from matplotlib.patches import FancyArrowPatch

    spots = np.array(SPOTS) + np.array([0, top])
    arrow: dict[str, Any] = {
        "arrowstyle": "-|>", "mutation_scale": 12, "shrinkA": 13, "shrinkB": 13,
    }  # fmt: skip
    for node in NODES:
        link = FancyArrowPatch(
            spots[node], spots[-1], color="#c8ccd0", lw=1, connectionstyle="arc3,rad=0.08", **arrow
        )
        ax.add_patch(link)
    for e in np.flatnonzero(edges):
        target, source = EDGES[e]
        op, start, end = edges[e] - 1, spots[source], spots[target]
        ax.add_patch(
            FancyArrowPatch(
                start, end, color=COLORS[op], lw=2, connectionstyle="arc3,rad=-0.12", **arrow
            )
        )
    ax.scatter(spots[:, 0], spots[:, 1], s=420, color="#1f2937", zorder=3)
    labels = ("c-2", "c-1", "0", "1", "2", "3", "out")
    for (x, y), label in zip(spots, labels, strict=True):
        ax.text(
            x, y, label, color="white", fontsize=8, weight="bold", ha="center", va="center",
            zorder=4,
        )  # fmt: skip
    ax.text(-0.4, top + 1.7, f"{name} cell", fontsize=10, weight="bold")


@cache
def _relabelled() -> npt.NDArray[np.float64]:
    """(14, 24): what each edge adds to a cell's code, per 1 + operation, for each order of nodes.

    An edge turned backwards adds more than any code has, so the smallest code is a cell.
    """
    base = float(len(OPS) + 1)
    weights = []
    for order in permutations(NODES):
        place = np.array([*range(INPUTS), *order])
        source, target = place[SOURCE], place[TARGET]
        forwards = np.minimum(FIRST[target - INPUTS] + source, len(EDGES))
        weights.append(base ** np.where(source < target, forwards, len(EDGES) + 1))
    return np.array(weights).T
