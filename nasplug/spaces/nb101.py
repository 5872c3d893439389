"""NAS-Bench-101: cells of up to seven vertices and nine edges, an operation at each inner vertex.

Ying et al., "NAS-Bench-101: Towards Reproducible Neural Architecture Search", ICML 2019.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError, unknown
from nasplug.kernel.space import Archs, Seed, redraw
from nasplug.spaces.cost import Cost, Costed, conv, linear

OPS = ("conv3x3", "conv1x1", "maxpool3x3")  # in the order of the official labels
CONV_3X3, CONV_1X1, _ = range(3)

VERTICES = 7  # the first is the input, the last the output
INNER = range(1, VERTICES - 1)
MAX_EDGES = 9

# (target, source) of each edge decision: the bits of the official graph number, highest first.
EDGES = [(y, x) for y in reversed(range(VERTICES)) for x in reversed(range(y))]
TARGET, SOURCE = np.array(EDGES).T
N_EDGES = len(EDGES)
LABELINGS = len(OPS) ** len(INNER)

BLOCK = 80  # archs in one product: few enough for BLAS to leave it to one thread

VERTEX = re.compile(r"(\w+)\(([\d,\s]*)\)")


class NB101(Costed):
    """423,624 graphs in 21 decisions on edges and 5 on operations.

    An arch is any such vector whose graph, once vertices on no path from input to output are
    dropped, has an edge and at most nine. Most graphs have many: relabelled and with loose
    vertices. The canonical arch is the one of lowest index; the official enumeration meets it
    first of its isomorphs, so it is the very graph that the data set has.

    >>> space = NB101()
    >>> arch = space.from_str("conv3x3(0)|conv1x1(0,1)|output(1,2)")
    >>> space.to_str(arch), space.params([arch])
    ('conv3x3(0)|conv1x1(0,1)|output(1,2)', array([3468426]))
    """

    name = "nb101"

    GRAPHS = 423_624
    RESOLUTION = 32
    CLASSES = 10
    STEM = 128  # channels; doubled by each stack but the first, which also halve the resolution
    STACKS = 3
    CELLS = 3  # in each stack

    def __init__(self) -> None:
        edges: dict[str, tuple[Any, ...]] = {f"{y}<-{x}": (0, 1) for y, x in EDGES}
        super().__init__(edges | {f"op{v}": OPS for v in INNER})

    @property
    def count(self) -> int:
        return self.GRAPHS

    # ---- graphs

    def matrices(self, archs: Archs) -> npt.NDArray[np.bool_]:
        """(n, 26) -> (n, 7, 7): the adjacency, [source, target]."""
        result = np.zeros((len(archs), VERTICES, VERTICES), bool)
        result[:, SOURCE, TARGET] = np.asarray(archs)[:, :N_EDGES]
        return result

    def pruned(self, archs: Archs) -> Archs:
        """(n, 26) -> (n, 26) with 0 for what lies on no path from the input to the output."""
        archs = np.asarray(archs, dtype=self.dtype)
        edges = self.matrices(archs)
        reached = np.zeros((len(archs), VERTICES), bool)
        reaching = reached.copy()
        reached[:, 0] = reaching[:, -1] = True
        for v in range(1, VERTICES):
            reached[:, v] = (reached[:, :v] & edges[:, :v, v]).any(1)
        for v in reversed(range(VERTICES - 1)):
            reaching[:, v] = (reaching[:, v + 1 :] & edges[:, v, v + 1 :]).any(1)
        alive = reached & reaching
        return archs * np.hstack([alive[:, SOURCE] & alive[:, TARGET], alive[:, 1:-1]])

    def is_valid(self, archs: Archs) -> npt.NDArray[np.bool_]:
        """The output is reached, over at most nine edges."""
        edges = self.pruned(archs)[:, :N_EDGES].sum(1)
        return (edges > 0) & (edges <= MAX_EDGES)

    def graph(self, archs: Archs) -> npt.NDArray[np.int64]:
        """(n, 26) -> (n,): the index of the canonical arch, equal for isomorphs alone."""
        weights = _relabelled()
        columns = self.pruned(archs).T.astype(np.float64)
        lowest = np.empty(len(archs), np.int64)
        for start in range(0, len(archs), BLOCK):
            block = slice(start, start + BLOCK)
            lowest[block] = (weights @ columns[:, block]).min(0)
        return lowest

    def canonical(self, archs: Archs) -> Archs:
        """(n, 26) -> (n, 26): the isomorph that the official enumeration meets first."""
        return self.from_index(self.graph(archs))

    def all(self) -> Archs:
        """(423624, 26): the canonical arch of every graph, by index; takes seconds."""
        return self.from_index(_all_graphs())

    def sample(self, n: int, seed: Seed = None) -> Archs:
        """n canonical archs, (n, 26), drawn uniformly from the 423,624 graphs."""
        rng = np.random.default_rng(seed)
        return self.from_index(rng.choice(_all_graphs(), n))

    def mutate(self, archs: Archs, seed: Seed = None, distance: int = 1) -> Archs:
        """(n, 26) -> (n, 26): for each a uniformly drawn one of its `neighbors`.

        But a lone edge from input to output has only isomorphs one edit away, and takes one.
        """
        rng = np.random.default_rng(seed)
        archs = np.asarray(archs, dtype=self.dtype)
        alone = (archs[:, :N_EDGES].sum(1) == 1) & (distance == 1)
        children = archs.copy()
        children[alone] = redraw(
            int(alone.sum()),
            lambda rows: self.edit(archs[alone][rows], np.ones(len(rows), int), rng),
            lambda edited, rows: self.is_valid(edited),
        )
        children[~alone] = super().mutate(archs[~alone], rng, distance)
        return children

    def describe(self) -> str:
        return f"{self.name}: {self.GRAPHS:,} graphs, {self.d} decisions"

    # ---- what predictors see

    def features(self, archs: Archs) -> npt.NDArray[np.float32]:
        """(n, 26) -> (n, 36): the canonical adjacency, and one-hot the operation of each vertex."""
        archs = self.canonical(archs)
        edges, ops = archs[:, :N_EDGES], archs[:, N_EDGES:]
        used = np.any(self.matrices(archs)[:, :, 1:-1], axis=1)
        one_hot = (ops[..., None] == np.arange(len(OPS))) & used[..., None]
        return np.hstack([edges, one_hot.reshape(len(archs), len(INNER) * len(OPS))]).astype(
            np.float32
        )

    def paths(self, archs: Archs) -> npt.NDArray[np.float32]:
        """(n, 26) -> (n, 364): which sequences of operations lead from input to output.

        The path encoding of White et al., "BANANAS", AAAI 2021: 1 + 3 + 9 + ... + 3^5 sequences,
        by length and then in lexicographic order.
        """
        edges = np.ascontiguousarray(self.matrices(archs).transpose(1, 2, 0))
        ops = np.ascontiguousarray(np.asarray(archs).T[N_EDGES:])
        is_op = ops[:, None] == np.arange(len(OPS))[:, None]  # (5, 3, n)
        ending: list[npt.NDArray[np.bool_]] = []  # which sequences end in each inner vertex
        for v in range(1, VERTICES):
            longest = len(INNER) - (v in INNER)
            arriving = np.zeros(((len(OPS) ** (longest + 1) - 1) // 2, len(archs)), bool)
            arriving[0] = edges[0, v]  # the empty one
            for u, sequences in enumerate(ending, start=1):
                arriving[1:] |= edges[u, v] & sequences[: len(arriving) - 1]
            if v in INNER:
                ending.append(
                    (arriving[:, None] & is_op[v - 1]).reshape(len(OPS) * len(arriving), len(archs))
                )
        return arriving.T.astype(np.float32)

    # ---- costs

    def channels(self, archs: Archs, c_out: int) -> npt.NDArray[np.int64]:
        """(n, 26) -> (n, 7): channels of each vertex in a cell of c_out (the input's are 0).

        The vertices that the output concatenates share its channels, the first of them one
        more where that does not divide; any other has as many as its widest successor.
        """
        edges = self.matrices(self.pruned(archs))
        concatenated = edges[:, 1:-1, -1]
        share, extra = np.divmod(c_out, np.maximum(concatenated.sum(1, keepdims=True), 1))
        result = np.zeros((len(archs), VERTICES), np.int64)
        result[:, -1] = c_out
        result[:, 1:-1] = concatenated * (share + (concatenated.cumsum(1) <= extra))
        for v in reversed(INNER[:-1]):
            widest = (edges[:, v, v + 1 : -1] * result[:, v + 1 : -1]).max(1)
            result[:, v] = np.where(concatenated[:, v - 1], result[:, v], widest)
        return result

    def costs(self, archs: Archs) -> Cost:
        """(n, 26) -> (2, n): exact for canonical archs; other isomorphs may round differently."""
        archs = self.pruned(archs)
        from_input = self.matrices(archs)[:, 0]
        ops = archs[:, N_EDGES:]
        side, c_in = self.RESOLUTION, self.STEM
        total = conv(3, np.full(len(archs), self.STEM), 3, side)
        for stack in range(self.STACKS):
            c_out = self.STEM << stack
            channels = self.channels(archs, c_out)
            inner = channels[:, 1:-1]
            cell = (ops == CONV_3X3) * conv(inner, inner, 3, side)
            cell += (ops == CONV_1X1) * conv(inner, inner, 1, side)
            total += self.CELLS * cell.sum(-1)
            for c, cells in ((c_in, 1), (c_out, self.CELLS - 1)):  # the input is projected
                total += cells * (from_input * conv(c, channels, 1, side)).sum(-1)
            side, c_in = side // 2, c_out
        return total + linear(c_in, self.CLASSES)[:, None]

    # ---- strings

    def to_str(self, arch: npt.ArrayLike) -> str:
        """One arch -> its inner vertices and the output, each with its inputs (0 is the input).

        Loose vertices at the end, that have no edges and the first operation, go without saying.
        """
        arch = np.asarray(arch)
        edges = self.matrices(arch[None])[0]
        ops = arch[N_EDGES:]
        said = max(
            (v for v in INNER if edges[v].any() or edges[:, v].any() or ops[v - 1]), default=0
        )
        names = {v: OPS[op] for v, op in enumerate(ops[:said], start=1)} | {VERTICES - 1: "output"}
        return "|".join(
            f"{name}({','.join(map(str, np.flatnonzero(edges[:, v])))})"
            for v, name in names.items()
        )

    def from_str(self, text: str) -> Archs:
        """The string form -> one arch (26,)."""
        vertices = [match for part in text.split("|") if (match := VERTEX.fullmatch(part.strip()))]
        ops = [vertex[1] for vertex in vertices]
        if len(ops) <= text.count("|") or len(ops) > 1 + len(INNER) or ops[-1] != "output":
            raise NasplugError(
                f"an arch of {self.name} is at most {len(INNER)} inner vertices and the output, "
                f"such as conv3x3(0)|conv1x1(0,1)|output(1,2), got {text!r}"
            )
        arch = np.zeros(self.d, self.dtype)
        for v, (op, vertex) in enumerate(zip(ops, vertices, strict=True), start=1):
            target = v if vertex is not vertices[-1] else VERTICES - 1
            if target in INNER and op not in OPS:
                raise unknown(f"operation of {self.name}", op, OPS)
            if target in INNER:
                arch[N_EDGES + v - 1] = OPS.index(op)
            for source in filter(str.strip, vertex[2].split(",")):
                if int(source) >= v:
                    raise NasplugError(
                        f"the inputs of {vertex[0]}, vertex {v}, are vertices before it, "
                        f"got {int(source)}"
                    )
                arch[EDGES.index((target, int(source)))] = 1
        return arch


@cache
def _relabelled() -> npt.NDArray[np.float64]:
    """(120, 26): what each decision adds to the index under each permutation of inner vertices.

    Edges turned backwards add more than any index, so the lowest index is always a graph.
    Vertices without edges end up last, as earlier places would cost less.
    """
    weights = []
    for order in permutations(INNER):
        place = np.array([0, *order, VERTICES - 1])
        source, target = place[SOURCE], place[TARGET]
        bit = 2.0 ** (source + target * (target - 1) // 2)
        backwards = 2.0 ** (N_EDGES + 1)
        edges = LABELINGS * np.where(source < target, bit, backwards)
        weights.append([*edges, *float(len(OPS)) ** (len(INNER) - place[1:-1])])
    return np.array(weights)


@cache
def _all_graphs() -> npt.NDArray[np.int64]:
    """(423624,): the indices that are the lowest of their class."""
    space = NB101()

    def canonical(indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        archs = space.from_index(indices)
        archs = archs[(space.pruned(archs) == archs).all(1)]
        archs = archs[space.is_valid(archs)]
        lowest = space.graph(archs)
        return lowest[lowest == space.index(archs)]

    # Labels are the low digits of an index: a canonical graph is canonical without them too.
    unlabelled = np.arange(2**N_EDGES).reshape(64, -1) * LABELINGS
    graphs = np.concatenate([canonical(indices) for indices in unlabelled])
    return canonical((graphs[:, None] + np.arange(LABELINGS)).ravel())
