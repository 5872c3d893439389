"""NAS-Bench-Macro: eight layers, each the identity or one of two MobileNetV2 blocks.

Su et al., "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021.
"""

from __future__ import annotations

from functools import cached_property
from itertools import groupby

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs
from nasplug.kernel.subspace import Layered
from nasplug.spaces.cost import Cost, conv, inverted_residual
from nasplug.spaces.skeleton.space import Skeleton, SkeletonSpace

OPS = ("identity", "MB3_K3", "MB6_K5")
EXPANSION = (0, 3, 6)
KERNEL = (0, 3, 5)

STAGES = ((64, 2, 2), (128, 3, 2), (256, 3, 2))  # channels, layers, stride of the first
PUBLISHED = Skeleton(32, 1, STAGES, 1280, resolution=32, channels=3, classes=10)


class Macro(SkeletonSpace):
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

    def layer_costs(self, archs: Archs) -> Cost:
        return self._tables[np.arange(self.d), archs].transpose(2, 1, 0)

    @cached_property
    def _tables(self) -> Cost:
        """(L, 3, 2): what each operation costs in each layer."""
        table = np.zeros((len(self.layers), len(OPS), 2), np.int64)
        for row, x in zip(table, self.layers, strict=True):
            if not x.residual:
                row[0] = conv(x.c_in, x.c_out, 1, x.out)
            for op in (1, 2):
                row[op] = inverted_residual(
                    x.c_in, x.c_out, KERNEL[op], EXPANSION[op], x.stride, x.side
                )
        return table

    def layered(self) -> Layered:
        return Layered(self, [np.arange(len(OPS))[:, None]] * self.d)

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
