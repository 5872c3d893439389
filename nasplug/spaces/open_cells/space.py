"""Open cells: any DAG of basic operations in each layer, and nothing that a person has designed.

Zhou et al., "AutoSpace: Neural Architecture Search with Less Human Interference", ICCV 2021.
"""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs
from nasplug.kernel.subspace import Layered
from nasplug.spaces.cost import Cost, conv
from nasplug.spaces.skeleton.space import SkeletonSpace

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes

Bools = npt.NDArray[np.bool_]

OPS = ("zero", "identity", "conv_1x1", "conv_3x3", "dw_conv_3x3")
LARGER = ("dw_conv_5x5", "dw_conv_7x7")  # of learned spaces; evolution does without
EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))  # (target, source) of the inner nodes
AGGREGATIONS = ("sum", "mean", "product")
EXPANSIONS = (3, 6)
AGGREGATION, EXPANSION = len(EDGES), len(EDGES) + 1  # their places behind the edges
GENES = len(EDGES) + 2
KERNELS = (3, 5, 7)

OP_CODES, AGGREGATION_CODES = "zipcd57", "+~*"
EXAMPLE = "zzzdzz+6"
COLORS = ("#c8ccd0", "#6b7280", "#4c9f70", "#2f6db5", "#d9822b", "#b5495b", "#7b4b94")


class OpenCells(SkeletonSpace):
    """93,750 cells in each layer, of which it may take any; 2,046 of them compute nothing.

    A cell: a 1x1 convolution to 3 or 6 times the channels, a DAG of four inner nodes with one of
    five operations on each of its six edges, and a 1x1 convolution to the channels of the layer.
    Nodes add, average or multiply what comes in: the paper has six cells per choice of operations,
    and does not say which; the authors' files hint at three expansions and two aggregations. Where
    the shape stays, the input is added to the output, and a cell that computes nothing is no layer.

    In the string of a cell a letter per edge (1<-0 2<-0 2<-1 3<-0 3<-1 3<-2) says zero, identity,
    p (1x1), c (3x3) or d (depthwise 3x3 convolution); then + sum, ~ mean or * product, and the
    expansion. With ``open-cells:kernel=7`` there are depthwise convolutions of 5 and 7 as well, in
    strings 5 and 7; with ``kernel=5`` those of 5. This is the inverted residual:

    >>> space = OpenCells("digits")
    >>> space.layer_from_str("zzzdzz+6")
    array([0, 0, 0, 4, 0, 0, 0, 1])
    """

    base = "open-cells"
    layer_network = "nasplug.spaces.open_cells.network"
    OPS, EDGES, EXPANSIONS, GENES = OPS, EDGES, EXPANSIONS, GENES

    @classmethod
    def preset(cls, data: str) -> dict[str, int]:
        return {**super().preset(data), "kernel": min(KERNELS)}

    def check_sizes(self) -> None:
        kernel = self.sizes["kernel"]
        if kernel not in KERNELS:
            raise NasplugError(f"kernel of {self.base} is 3, 5 or 7, got {kernel}")
        super().check_sizes()
        self.ops = OPS + LARGER[: KERNELS.index(kernel)]

    def find_decisions(self) -> dict[str, tuple[Any, ...]]:
        found: dict[str, tuple[Any, ...]] = {}
        for i in range(len(self.layers)):
            found |= {f"layer{i}.{target}<-{source}": self.ops for target, source in EDGES}
            found |= {f"layer{i}.aggregation": AGGREGATIONS, f"layer{i}.expansion": EXPANSIONS}
        return found

    def is_valid(self, archs: Archs) -> Bools:
        """Where the shape changes the cell computes something."""
        needed = np.array([not layer.residual for layer in self.layers])
        return np.all(live(self.split(archs)[:, needed]).any(-1), axis=-1)

    def canonical(self, archs: Archs) -> Archs:
        """(n, d) -> (n, d): edges that reach nothing are zero, and so is what follows from it."""
        return canonical(self.split(archs)).reshape(-1, self.d)

    def layer_costs(self, archs: Archs) -> Cost:
        return self.cell_costs(self.split(archs), np.arange(len(self.layers))).transpose(2, 1, 0)

    def cell_costs(self, cells: Archs, layer: npt.ArrayLike) -> Cost:
        """(..., 8) cells in layers (...) -> (..., 2): parameters and multiply-adds."""
        layer = np.asarray(layer)
        used = live(cells)
        ops = np.where(used, cells[..., :AGGREGATION], 0)
        expansion = cells[..., EXPANSION]
        projections, operations = self._tables
        cost = operations[layer[..., None], expansion[..., None], ops].sum(-2)
        return cost + projections[layer, expansion] * np.any(used, axis=-1, keepdims=True)

    @cached_property
    def _tables(self) -> tuple[Cost, Cost]:
        """(L, 2, 2): both projections; (L, 2, O, 2): an operation, at each expansion."""
        projections, operations = [], []
        for layer in self.layers:
            for expansion in EXPANSIONS:
                hidden = expansion * layer.c_in
                projections.append(
                    conv(layer.c_in, hidden, 1, layer.side)
                    + conv(hidden, layer.c_out, 1, layer.out)
                )
                nothing = np.zeros(2, np.int64)
                depthwise = [
                    conv(hidden, hidden, kernel, layer.out, groups=hidden) for kernel in KERNELS
                ]
                dense = [conv(hidden, hidden, kernel, layer.out) for kernel in (1, 3)]
                operations.append([nothing, nothing, *dense, *depthwise][: len(self.ops)])
        L, E = len(self.layers), len(EXPANSIONS)
        return np.reshape(projections, (L, E, 2)), np.reshape(operations, (L, E, -1, 2))

    def layered(self) -> Layered:
        cells = prod(self.cardinalities[:GENES].tolist())
        raise NasplugError(
            f"{self.name} has {cells:,} choices in each layer, too many to train side by side: "
            "evolve a space of a few first, with a method that does, and search --within its run "
            "directory"
        )

    def shared_supernet(self, affordable: Bools, layers: Layered) -> torch.nn.Module:
        """A supernet that holds some cells in each layer at a time, on weights that all share:
        ``supernet.hold(layers)`` gives it others.

        affordable: (L, 2, O), by layer, expansion and operation: those that it has weights for,
        of the first O.
        """
        net: torch.nn.Module = import_module(self.layer_network).OpenSupernet(
            self, affordable, layers
        )
        return net

    # ---- cells: (..., 8) of any layer

    def live(self, cells: Archs) -> Bools:
        """(..., 8) -> (..., 6): the edges on a way from the input to the output."""
        return live(cells)

    def canonical_cells(self, cells: Archs) -> Archs:
        """(..., 8) -> (..., 8): see `canonical`."""
        return canonical(cells)

    def draw_cells(self, cells: list[tuple[str, Archs]], ax: Axes) -> None:
        """Cells with a title each, as small DAGs."""
        draw_cells(cells, ax)

    # ---- strings

    def layer_str(self, choice: npt.ArrayLike) -> str:
        *ops, aggregation, expansion = np.asarray(choice).tolist()
        letters = "".join(OP_CODES[op] for op in ops)
        return f"{letters}{AGGREGATION_CODES[aggregation]}{EXPANSIONS[expansion]}"

    def layer_from_str(self, text: str) -> Archs:
        ops, aggregation, expansion = text[:AGGREGATION], text[AGGREGATION:-1], text[-1:]
        known, letters = [str(e) for e in EXPANSIONS], OP_CODES[: len(self.ops)]
        if (
            len(ops) < len(EDGES)
            or set(ops) - set(letters)
            or len(aggregation) != 1
            or aggregation not in AGGREGATION_CODES
            or expansion not in known
        ):
            others = OP_CODES[len(self.ops) :]
            more = f" (with {self.base}:kernel=7 also {others})" if others else ""
            raise NasplugError(
                f"{text!r} is no open cell: six letters of {letters}{more} for its edges, one of "
                f"{AGGREGATION_CODES}, and the expansion 3 or 6, such as {EXAMPLE}"
            )
        genes = [OP_CODES.index(op) for op in ops]
        return np.array([*genes, AGGREGATION_CODES.index(aggregation), known.index(expansion)])

    def draw(self, arch: npt.ArrayLike, ax: Axes) -> None:
        """The cells of an arch, layer by layer."""
        cells = self.split(np.asarray(arch)[None])[0]
        draw_cells([(f"layer {i}", cell) for i, cell in enumerate(cells)], ax)


def live(cells: Archs) -> Bools:
    """(..., 8) -> (..., 6): the edges on a way from the input to the output."""
    bits = (np.asarray(cells)[..., :AGGREGATION] != 0) @ (1 << np.arange(len(EDGES)))
    return _LIVE[bits]


def _live_table() -> Bools:
    """(64, 6) by which edges hold an operation."""
    there = (np.arange(2 ** len(EDGES))[:, None] >> np.arange(len(EDGES))) & 1 > 0
    reached = np.zeros((len(there), 4), bool)
    useful = np.zeros((len(there), 4), bool)
    reached[:, 0] = useful[:, 3] = True
    for e, (target, source) in enumerate(EDGES):
        reached[:, target] |= there[:, e] & reached[:, source]
    for e, (target, source) in reversed(list(enumerate(EDGES))):
        useful[:, source] |= there[:, e] & useful[:, target]
    targets, sources = np.array(EDGES).T
    return there & reached[:, sources] & useful[:, targets]


_LIVE = _live_table()


def canonical(cells: Archs) -> Archs:
    """(..., 8) -> (..., 8): dead edges are zero; with one input a node needs no aggregation, and
    a cell that computes nothing no expansion."""
    cells = np.array(cells)
    used = live(cells)
    cells[..., :AGGREGATION] *= used
    targets = np.array([target for target, _ in EDGES])
    inputs = np.stack([used[..., targets == node].sum(-1) for node in (1, 2, 3)], -1)
    cells[..., AGGREGATION] *= (inputs > 1).any(-1)
    cells[..., EXPANSION] *= used.any(-1)
    return cells


def draw_cells(cells: list[tuple[str, Archs]], ax: Axes, columns: int = 5) -> None:
    """Cells with a title each, as small DAGs; only the edges that count."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyArrowPatch

    rows = -(-len(cells) // columns)
    ax.set(xlim=(-0.6, 4.3 * min(columns, len(cells))), ylim=(-2.3 * rows - 0.2, 0.9))
    ax.axis("off")
    for n, (title, cell) in enumerate(cells):
        left, top = 4.3 * (n % columns), -2.3 * (n // columns)
        spots = [(left + i, top - 0.7) for i in range(4)]
        for e, (target, source) in enumerate(EDGES):
            if not live(cell)[e]:
                continue
            bend = -0.45 * (target - source - 1) if source == 0 else 0.45 * (target - source - 1)
            ax.add_patch(
                FancyArrowPatch(
                    spots[source], spots[target], color=COLORS[cell[e]], lw=2, shrinkA=5, shrinkB=5,
                    arrowstyle="-|>", mutation_scale=9, connectionstyle=f"arc3,rad={bend}",
                )
            )  # fmt: skip
        ax.scatter([x for x, _ in spots], [y for _, y in spots], s=60, color="#1f2937", zorder=3)
        joined = f"{AGGREGATIONS[cell[AGGREGATION]]}, expansion {EXPANSIONS[cell[EXPANSION]]}"
        words = joined if live(cell).any() else "no layer"
        ax.text(left + 1.5, top + 0.25, f"{title}\n{words}", ha="center", va="bottom", fontsize=7)
    last = max(len(OPS), 1 + max(int(np.max(cell[:AGGREGATION])) for _, cell in cells))
    names = (*OPS, *LARGER)[1:last]
    handles = [Line2D([], [], color=color, lw=2) for color in COLORS[1:last]]
    ax.legend(
        handles, names, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=len(names),
        frameon=False, fontsize=8,
    )  # fmt: skip
