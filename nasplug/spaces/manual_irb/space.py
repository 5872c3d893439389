"""The hand-made space of mobile networks: an inverted residual, or nothing, in each layer.

Cai, Zhu and Han, ICLR 2019; the space that learned ones are compared with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nasplug.kernel.space import Archs
from nasplug.kernel.subspace import Layered
from nasplug.spaces.cost import Cost
from nasplug.spaces.skeleton.space import BlockSpace, Layer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KERNELS = (3, 5, 7)
EXPANSIONS = (3, 6)
VARIANTS = tuple((kernel, expansion) for expansion in EXPANSIONS for kernel in KERNELS)
BLOCKS = ("zero", *(f"k{kernel}e{expansion}" for kernel, expansion in VARIANTS))


class ManualIRB(BlockSpace):
    """Inverted residuals of kernel 3, 5, 7 and expansion 3, 6, or no layer where none is needed.

    >>> space = ManualIRB("digits")
    >>> space.to_str([1, 0, 2, 3, 4, 6])
    'k3e3-zero-k5e3-k7e3-k3e6-k7e6'
    """

    base = "manual-irb"
    layer_network = "nasplug.spaces.manual_irb.network"
    blocks = BLOCKS

    def is_valid(self, archs: Archs) -> npt.NDArray[np.bool_]:
        """Where the shape changes there is a layer."""
        needed = np.array([not layer.residual for layer in self.layers])
        return np.all(np.asarray(archs)[:, needed] > 0, axis=1)

    def block_cost(self, shape: Layer, block: int) -> Cost:
        if not block:
            return np.zeros(2, np.int64)
        return shape.inverted_residual(*VARIANTS[block - 1])

    def layered(self) -> Layered:
        return Layered(
            self,
            [np.arange(not layer.residual, len(BLOCKS))[:, None] for layer in self.layers],
        )

    def draw(self, arch: npt.ArrayLike, ax: Axes) -> None:
        """A bar per layer, as high as its expansion and colored by its kernel."""
        colors = ("#4c9f70", "#2f6db5", "#d9822b")
        for i, op in enumerate(np.asarray(arch).tolist()):
            if op:
                kernel, expansion = VARIANTS[op - 1]
                ax.bar(i, expansion, 0.8, color=colors[KERNELS.index(kernel)])
                ax.text(i, 0.2, str(kernel), ha="center", color="white", weight="bold")
            else:
                ax.plot([i - 0.4, i + 0.4], [0, 0], color="#9aa3ad", lw=2)
        starts = [i for i, layer in enumerate(self.layers) if layer.stride > 1]
        for i in starts:
            ax.axvline(i - 0.5, color="#9aa3ad", ls=":", lw=1)
        ax.set(xlabel="layer (dotted: the resolution halves)", ylabel="expansion", ylim=(0, 6.5))
        ax.spines[["top", "right"]].set_visible(False)
        handles: list[Any] = [ax.bar(0, 0, color=color) for color in colors]
        names = [f"{k}x{k}" for k in KERNELS]
        ax.legend(handles, names, ncols=3, frameon=False, loc="upper center")
