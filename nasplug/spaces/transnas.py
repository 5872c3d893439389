"""TransNAS-Bench-101: 3,256 macro skeletons and 4,096 cells, each trained on seven vision tasks.

Duan et al., "TransNAS-Bench-101: Improving Transferability and Generalizability of Cross-Task
Neural Architecture Search", CVPR 2021. Costs are those of the backbone (stem and modules)
on one 224 x 224 image, without the head of a task.
"""

from __future__ import annotations

import re
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs
from nasplug.spaces.cost import Additive, Cost, Costed, conv

RESOLUTION = 224
CHANNELS = 64  # after the stem, which divides the resolution by four


def _stem() -> Cost:
    half = CHANNELS // 2
    return conv(3, half, 3, RESOLUTION // 2) + conv(half, CHANNELS, 3, RESOLUTION // 4)


class TransNASMacro(Costed):
    """Four to six modules of two ResNet basic blocks; each may double channels, halve resolution.

    A module is 1 (neither), 2 (channels x 2), 3 (resolution / 2) or 4 (both); 0 is a module
    that is not there. One to three double the channels, one to four halve the resolution.

    >>> TransNASMacro().to_str([0, 1, 2, 3, 0, 0])
    '64-1234-basic'
    """

    name = "transnas-macro"

    def __init__(self) -> None:
        shortest = {f"module{i}": range(1, 5) for i in range(4)}
        super().__init__(shortest | {f"module{i}": range(5) for i in (4, 5)})

    @cached_property
    def count(self) -> int:
        return len(self.all())

    def _modules(self, archs: Archs) -> Archs:
        """(n, 6) choices -> (n, 6) types of modules, 0 for none."""
        return np.asarray(archs) + np.array([1, 1, 1, 1, 0, 0], self.dtype)

    def is_valid(self, archs: Archs) -> npt.NDArray[np.bool_]:
        modules = self._modules(archs)
        doubled = ((modules == 2) | (modules == 4)).sum(1)
        halved = (modules >= 3).sum(1)
        gap = (modules[:, 4] == 0) & (modules[:, 5] > 0)
        return (doubled >= 1) & (doubled <= 3) & (halved >= 1) & (halved <= 4) & ~gap

    def costs(self, archs: Archs) -> Cost:
        """(n, 6) -> (2, n)."""
        channels = np.full(len(archs), CHANNELS)
        side = np.full(len(archs), RESOLUTION // 4)
        total = np.repeat(_stem()[:, None], len(archs), 1)
        for module in self._modules(archs).T:
            c_in, channels = channels, np.where((module == 2) | (module == 4), 2, 1) * channels
            side = np.where(module >= 3, (side + 1) // 2, side)
            blocks = conv(c_in, channels, 3, side) + 3 * conv(channels, channels, 3, side)
            total += (module > 0) * blocks + (module > 1) * conv(c_in, channels, 1, side)
        return total

    def to_str(self, arch: npt.ArrayLike) -> str:
        """One arch -> the official string, such as 64-1234-basic."""
        return (
            f"64-{''.join(str(module) for module in self.to_dict(arch).values() if module)}-basic"
        )

    def from_str(self, text: str) -> Archs:
        """The official string -> one arch (6,)."""
        match = re.fullmatch(r"64-([1-4]{4,6})-basic", text.strip())
        if not match:
            raise NasplugError(
                f"an arch of {self.name} reads like 64-1234-basic (four to six modules, each 1, "
                f"2, 3 or 4), got {text!r}"
            )
        return self.from_dict(dict(zip(self.names, match[1].ljust(6, "0"), strict=True)))


class TransNASCell(Additive):
    """4^6 = 4,096 cells of four nodes in the fixed skeleton 41414 (see `TransNASMacro`).

    >>> TransNASCell().to_str([1, 0, 2, 3, 3, 3])
    '64-41414-1_02_333'
    """

    name = "transnas-cell"

    OPS = ("zero", "skip", "conv1x1", "conv3x3")
    EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))  # (target, source)
    SKELETON = (4, 1, 4, 1, 4)  # modules of two cells

    def __init__(self) -> None:
        super().__init__({f"{target}<-{source}": self.OPS for target, source in self.EDGES})

    def fixed_cost(self) -> Cost:
        return _stem()

    def choice_costs(self) -> Cost:
        total = np.zeros((len(self.EDGES), len(self.OPS), 2), np.int64)
        channels, side = CHANNELS, RESOLUTION // 4
        for module in self.SKELETON:
            c_in, reduces = channels, module == 4
            if reduces:
                channels, side = 2 * channels, side // 2
            inside = [
                np.zeros(2),
                np.zeros(2),
                *(conv(channels, channels, k, side) for k in (1, 3)),
            ]
            # A skip that reduces is a 1x1 convolution, in two halves.
            entering = [np.zeros(2), *(conv(c_in, channels, k, side) for k in (1, 1, 3))]
            for edge, (_, source) in enumerate(self.EDGES):
                first = entering if reduces and source == 0 else inside
                total[edge] += np.array([first, inside], np.int64).sum(0)
        return total

    def to_str(self, arch: npt.ArrayLike) -> str:
        """One arch -> the official string: the operations into node 1, 2 and 3."""
        digits = "".join(map(str, np.asarray(arch).tolist()))
        return f"64-41414-{digits[0]}_{digits[1:3]}_{digits[3:]}"

    def from_str(self, text: str) -> Archs:
        """The official string -> one arch (6,)."""
        match = re.fullmatch(r"64-41414-([0-3])_([0-3]{2})_([0-3]{3})", text.strip())
        if not match:
            raise NasplugError(
                f"an arch of {self.name} reads like 64-41414-1_02_333 (operations 0 to 3 into "
                f"each node), got {text!r}"
            )
        return np.array([int(op) for op in "".join(match.groups())], self.dtype)
