"""NAS-Bench-Macro: eight layers, each the identity or one of two MobileNetV2 blocks.

Su et al., "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs
from nasplug.spaces.cost import Cost, conv
from nasplug.spaces.skeleton.space import BlockSpace, Layer, Skeleton

OPS = ("identity", "MB3_K3", "MB6_K5")
EXPANSION = (0, 3, 6)
KERNEL = (0, 3, 5)

STAGES = ((64, 2, 2), (128, 3, 2), (256, 3, 2))  # channels, layers, stride of the first
PUBLISHED = Skeleton(32, 1, STAGES, 1280, resolution=32, channels=3, classes=10)


class Macro(BlockSpace):
    """3^8 = 6,561 networks, 3,969 of them distinct.

    >>> Macro().to_str([0, 1, 2, 0, 0, 1, 1, 2])
    '01200112'
    """

    base = "macro"
    layer_network = "nasplug.spaces.macro.network"
    skeletons = {  # noqa: RUF012 - of the class, and never changed
        "": PUBLISHED,
        "digits": PUBLISHED.resized(resolution=8, channels=1),
    }
    blocks = OPS

    def find_decisions(self) -> dict[str, tuple[str, ...]]:
        return {f"layer{i}": OPS for i in range(1, len(self.layers) + 1)}

    def canonical(self, archs: Archs) -> Archs:
        """(n, d) -> (n, d): identities that do nothing come first in their stage.

        Where a layer changes the shape the identity is a convolution; among the other layers of
        a stage it can stand anywhere.
        """
        archs = np.array(archs)
        for residual, run in groupby(range(self.d), lambda i: self.layers[i].residual):
            if residual:
                rest = list(run)
                layers = archs[:, rest]
                order = np.argsort(layers != 0, axis=1, kind="stable")
                archs[:, rest] = np.take_along_axis(layers, order, axis=1)
        return archs

    def block_cost(self, shape: Layer, block: int) -> Cost:
        if block:
            return shape.inverted_residual(KERNEL[block], EXPANSION[block])
        return np.zeros(2, np.int64) if shape.same else conv(shape.c_in, shape.c_out, 1, shape.out)

    def layer_str(self, choice: npt.ArrayLike) -> str:
        return str(np.asarray(choice)[0])

    def layer_from_str(self, text: str) -> Archs:
        return np.array([int(text)])

    def to_str(self, arch: npt.ArrayLike) -> str:
        """One arch -> a digit per layer, 0 to 2, as in the table."""
        return "".join(map(str, np.asarray(arch).tolist()))

    def from_str(self, text: str) -> Archs:
        """A digit per layer -> one arch (d,)."""
        text = text.strip()
        if len(text) != self.d or not set(text) <= set("012"):
            raise NasplugError(f"an arch of macro is {self.d} digits, 0 to 2, got {text!r}")
        return np.array([int(digit) for digit in text], dtype=self.dtype)
