"""NAS-Bench-Graph: graph neural networks of four operations hung on a tree.

Qin et al., "NAS-Bench-Graph: Benchmarking Graph Neural Architecture Search", NeurIPS 2022.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import permutations

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError, unknown
from nasplug.kernel.space import Archs, Space

# Digit i is the node whose output node i + 1 takes, 0 the raw features. Up to the names of
# the nodes these are all the rooted trees; their leaves together make the output.
LINKS = ("0000", "0001", "0011", "0012", "0013", "0111", "0112", "0122", "0123")
OPS = ("gat", "gcn", "gin", "cheb", "sage", "arma", "graph", "fc", "skip")
SKIP = OPS.index("skip")
BASE = 10  # of the digits of a hash


class Graph(Space):
    """9 * 9^4 = 59,049 vectors that make 26,207 distinct networks.

    >>> Graph().to_str([3, 1, 0, 8, 7])
    '0012:gcn,gat,skip,fc'
    """

    name = "graph"

    def __init__(self) -> None:
        super().__init__({"links": LINKS, **{f"op{i}": OPS for i in range(1, 5)}})

    def to_str(self, arch: npt.ArrayLike) -> str:
        """One arch -> the inputs of its four nodes and their operations."""
        links, *ops = np.asarray(arch).tolist()
        return f"{LINKS[links]}:{','.join(OPS[op] for op in ops)}"

    def from_str(self, text: str) -> Archs:
        """``links:op,op,op,op`` -> one arch (5,)."""
        links, _, rest = text.strip().partition(":")
        ops = rest.split(",")
        if len(ops) != 4:
            raise NasplugError(f"an arch of graph reads like 0012:gcn,gat,skip,fc, got {text!r}")
        if links not in LINKS:
            raise unknown("links of graph", links, LINKS)
        for op in ops:
            if op not in OPS:
                raise unknown("operation of graph", op, OPS)
        return np.array([LINKS.index(links), *map(OPS.index, ops)], dtype=self.dtype)

    def hash(self, archs: Archs) -> npt.NDArray[np.int64]:
        """(n, 5) -> (n,): the benchmark's key of each class, the digits of its representative."""
        return self.canonical(archs) @ BASE ** np.arange(4, -1, -1)

    def canonical(self, archs: Archs) -> Archs:
        """(n, 5) -> (n, 5): the representative that the benchmark stores.

        Skips that change nothing move to the front of all others; then, of all ways to name
        the nodes, the one with the smallest operations.
        """
        archs = np.asarray(archs)
        links, orders = _rewritings()
        case = archs[:, 0], ((archs[:, 1:] == SKIP) @ (1 << np.arange(4)))
        ops = np.take_along_axis(archs[:, None, 1:], orders[case], axis=2)  # (n, 24, 4)
        least = np.argmin(ops @ BASE ** np.arange(3, -1, -1), axis=1)
        ops = ops[np.arange(len(archs)), least]
        return np.column_stack([links[case], ops]).astype(self.dtype)


@cache
def _rewritings() -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """(9, 16) and (9, 16, 24, 4): what becomes of each pattern with each set of skips.

    The first is its pattern after useless skips are moved; the second the orders of
    the old nodes that give it, repeated to fill 24.
    """
    links = np.empty((9, 16), dtype=np.int8)
    orders = np.empty((9, 16, 24, 4), dtype=np.int8)
    for i, pattern in enumerate(LINKS):
        for skips in range(16):
            tree = _moved([int(digit) for digit in pattern], skips)
            found = list(_orders(tree))
            links[i, skips] = found[0][0]
            orders[i, skips] = np.resize([order for _, order in found], (24, 4))
    return links, orders


def _moved(parents: list[int], skips: int) -> list[int]:
    """The parents (1 to 4, 0 the root) after useless skips were moved to a chain at the root.

    A skip is useless if something follows it, if it has no siblings, or if it is a leaf that
    repeats the raw features.
    """
    parent = dict(enumerate(parents, start=1))
    chain = []
    for node in range(1, 5):
        if not skips >> (node - 1) & 1:
            continue
        children = [child for child, p in parent.items() if p == node]
        siblings = [other for other, p in parent.items() if p == parent[node] and other != node]
        if children or not siblings or parent[node] == 0:
            above = parent.pop(node)
            parent.update(dict.fromkeys(children, above))
            chain.append(node)
    root = chain[-1] if chain else 0
    parent = {node: p or root for node, p in parent.items()}
    parent.update(zip(chain, [0, *chain], strict=False))
    return [parent[node] for node in range(1, 5)]


def _orders(parents: list[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Every order of the nodes in which the tree reads as one of LINKS, with its index."""
    for order in permutations(range(4)):
        name = {0: 0, **{node + 1: i for i, node in enumerate(order, start=1)}}
        links = "".join(str(name[parents[node]]) for node in order)
        if links in LINKS:
            yield LINKS.index(links), order
