"""The final space: what evolution ended with, and what else the authors' released network has.

Its 21 searched layers are 13 learned cells, 2 inverted residuals and 6 without a layer. A depthwise
convolution of 5 or 7 is in seven of the cells, always their first one, and evolution had none.
"""

from __future__ import annotations

import numpy as np

from nasplug import Archs, Layered
from nasplug.spaces import OpenCells

KINDS = ("zero", "inverted residual", "learned cell")
EDGES, DEPTHWISE = len(OpenCells.EDGES), OpenCells.OPS.index("dw_conv_3x3")


def union(learned: Layered) -> Layered:
    """In each layer the learned cells and the inverted residuals, each with every kernel that the
    space has for its first depthwise operation, and no layer where none is needed.

    They need not keep to the MAdds limit (eq. 1), which is of evolution: a search in the space has
    a target of its own.
    """
    space = learned.space
    assert isinstance(space, OpenCells)
    blocks = [space.layer_from_str(f"zzzdzz+{expansion}") for expansion in space.EXPANSIONS]
    choices = []
    for layer, cells in zip(space.layers, learned.choices, strict=True):
        found = space.canonical_cells(np.concatenate([cells, blocks]))
        kernels = [with_first(found, op) for op in range(DEPTHWISE, len(space.ops))]
        zero = np.zeros((int(layer.residual), OpenCells.GENES), found.dtype)
        rows = np.concatenate([*kernels, zero])
        choices.append(rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])])
    return Layered(space, choices)


def with_first(cells: Archs, op: int) -> Archs:
    """(n, 8) -> (n, 8): with another operation for the first of their depthwise ones."""
    depthwise = cells[:, :EDGES] == DEPTHWISE
    first = depthwise & (depthwise.cumsum(1) == 1)
    return np.hstack([np.where(first, op, cells[:, :EDGES]), cells[:, EDGES:]])


def kinds(space: OpenCells, cells: Archs) -> Archs:
    """(..., 8) -> (...): which of `KINDS` each is.

    An inverted residual is also a cell whose only way from the input to the output has a depthwise
    operation, and identities otherwise.
    """
    used = space.live(cells)
    ops = np.where(used, cells[..., :EDGES], 0)
    working = ops > OpenCells.OPS.index("identity")
    depthwise = ops >= DEPTHWISE
    targets = np.array([target for target, _ in OpenCells.EDGES])
    one_way = np.max([used[..., targets == node].sum(-1) for node in (1, 2, 3)], axis=0) == 1
    block = one_way & (working.sum(-1) == 1) & (depthwise.sum(-1) == 1)
    return np.where(block, 1, 2) * used.any(-1)
