"""NAS-Bench-Macro: eight layers, each the identity or one of two MobileNetV2 blocks.

Su et al., "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.space import Archs, Space

if TYPE_CHECKING:
    import torch

OPS = ("identity", "MB3_K3", "MB6_K5")
EXPANSION = (0, 3, 6)
KERNEL = (0, 3, 5)

STEM = 32  # channels of the stem
HEAD = 1280  # channels of the last 1x1 convolution
STAGES = ((0, 1), (2, 3, 4), (5, 6, 7))  # the first layer halves the resolution, doubles channels


class Macro(Space):
    """3^8 = 6,561 networks, 3,969 of them distinct.

    >>> Macro().to_str([0, 1, 2, 0, 0, 1, 1, 2])
    '01200112'
    """

    name = "macro"

    def __init__(self) -> None:
        super().__init__({f"layer{i}": OPS for i in range(1, 9)})

    def to_str(self, arch: npt.ArrayLike) -> str:
        """One arch -> eight digits, 0 to 2, as in the table."""
        return "".join(map(str, np.asarray(arch).tolist()))

    def from_str(self, text: str) -> Archs:
        """Eight digits -> one arch (8,)."""
        text = text.strip()
        if len(text) != 8 or not set(text) <= set("012"):
            raise NasplugError(f"an arch of macro is 8 digits, 0 to 2, got {text!r}")
        return np.array([int(digit) for digit in text], dtype=self.dtype)

    def canonical(self, archs: Archs) -> Archs:
        """(n, 8) -> (n, 8): identities that do nothing come first in their stage.

        Only a stage's first layer changes the shape, so there the identity is a convolution;
        among the other layers of a stage it can stand anywhere.
        """
        archs = np.array(archs)
        for _, *rest in STAGES:
            layers = archs[:, rest]
            order = np.argsort(layers != 0, axis=1, kind="stable")
            archs[:, rest] = np.take_along_axis(layers, order, axis=1)
        return archs

    def params(
        self, archs: Archs, num_classes: int = 10, in_channels: int = 3
    ) -> npt.NDArray[np.int64]:
        """(n, 8) -> (n,): trainable parameters, those of batch norms included."""
        table = np.zeros((8, 3), dtype=np.int64)
        for i, (c_in, c_out, stride, _) in enumerate(layers()):
            if stride > 1:
                table[i, 0] = c_in * c_out + 2 * c_out
            for op in (1, 2):
                hidden = EXPANSION[op] * c_in
                table[i, op] = (c_in + KERNEL[op] ** 2 + c_out + 4) * hidden + 2 * c_out
        stem = 9 * in_channels * STEM + 2 * STEM
        head = c_out * HEAD + 2 * HEAD + (HEAD + 1) * num_classes
        return table[np.arange(8), archs].sum(1) + stem + head

    def flops(
        self, archs: Archs, num_classes: int = 10, resolution: int = 32, in_channels: int = 3
    ) -> npt.NDArray[np.int64]:
        """(n, 8) -> (n,): multiply-adds of one image, `resolution` a multiple of 8.

        As in the official table convolutions count and the classifier without its bias.
        """
        table = np.zeros((8, 3), dtype=np.int64)
        for i, (c_in, c_out, stride, shrinkage) in enumerate(layers()):
            before = (resolution // shrinkage) ** 2  # pixels
            after = before // stride**2
            if stride > 1:
                table[i, 0] = c_in * c_out * after
            for op in (1, 2):
                hidden = EXPANSION[op] * c_in
                table[i, op] = (c_in * before + (KERNEL[op] ** 2 + c_out) * after) * hidden
        stem = 9 * in_channels * STEM * resolution**2
        head = c_out * HEAD * after + HEAD * num_classes
        return table[np.arange(8), archs].sum(1) + stem + head

    def build(
        self, arch: npt.ArrayLike, num_classes: int = 10, in_channels: int = 3
    ) -> torch.nn.Module:
        """One arch -> the official network."""
        from nasplug.nn.macro import Network

        return Network(self.arch(arch).tolist(), num_classes, in_channels)


def layers() -> Iterator[tuple[int, int, int, int]]:
    """Per layer: channels in, channels out, stride, and how much smaller its input is."""
    c, shrinkage = STEM, 1
    for stage in STAGES:
        yield c, 2 * c, 2, shrinkage
        c, shrinkage = 2 * c, 2 * shrinkage
        for _ in stage[1:]:
            yield c, c, 1, shrinkage
