"""ShuffleNetV2-like networks: twenty layers, one of four choice blocks in each.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from nasplug.spaces.chain import Chain
from nasplug.spaces.cost import Cost, conv, linear

BLOCKS = ("k3", "k5", "k7", "xception")


class ShuffleNetV2(Chain):
    """4^20 = 1.1e12 networks for ImageNet.

    The network that the authors found has 323M multiply-adds and 3.5M parameters:

    >>> spos = [[2, 1, 0, 1, 2, 0, 2, 0, 2, 0, 2, 3, 0, 0, 0, 0, 3, 2, 3, 3]]
    >>> ShuffleNetV2().flops(spos), ShuffleNetV2().params(spos)
    (array([322918720]), array([3558464]))
    """

    name = "shufflenetv2"

    RESOLUTION = 224
    CLASSES = 1000
    STEM = 16  # channels
    CHANNELS = (64, 160, 320, 640)  # of each stage, whose first layer halves the resolution
    REPEATS = (4, 4, 8, 4)  # layers of each stage
    LAST = 1024  # channels before the classifier, which has no bias

    def __init__(self) -> None:
        super().__init__({f"layer{i}": BLOCKS for i in range(sum(self.REPEATS))})

    def fixed_cost(self) -> Cost:
        side = self.RESOLUTION // 2
        stem = conv(3, self.STEM, 3, side)
        last = conv(self.CHANNELS[-1], self.LAST, 1, side >> len(self.CHANNELS))
        return stem + last + linear(self.LAST, self.CLASSES, bias=False)

    def choice_costs(self) -> Cost:
        side = self.RESOLUTION // 2
        layers = []
        for (c_in, c_out), repeats in zip(
            pairwise((self.STEM, *self.CHANNELS)), self.REPEATS, strict=True
        ):
            layers.append([_block(block, c_in, c_out, 2, side) for block in BLOCKS])
            side //= 2
            layers += [[_block(block, c_out, c_out, 1, side) for block in BLOCKS]] * (repeats - 1)
        return np.array(layers)


def _block(block: str, c_in: int, c_out: int, stride: int, side: int) -> Cost:
    """One choice block; its input is side x side.

    With stride 1 half of the channels pass untouched; with stride 2 all of them go through
    the main branch and, projected, through the other.
    """
    middle = c_out // 2
    out = side // stride
    half = c_in if stride == 2 else c_in // 2
    kernel = 3 if block == "xception" else int(block[1])
    if block == "xception":
        cost = conv(half, half, 3, out, groups=half) + conv(half, middle, 1, out)
        cost += 2 * conv(middle, middle, 3, out, groups=middle) + conv(middle, middle, 1, out)
    else:
        cost = conv(half, middle, 1, side) + conv(middle, middle, kernel, out, groups=middle)
    cost += conv(middle, c_out - half, 1, out)
    if stride == 2:
        cost += conv(c_in, c_in, kernel, out, groups=c_in) + conv(c_in, c_in, 1, out)
    return cost
