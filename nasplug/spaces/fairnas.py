"""FairNAS: nineteen inverted residuals, the kernel and the expansion of each to be chosen.

Chu et al., "FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural Architecture
Search", ICCV 2021.
"""

from __future__ import annotations

import numpy as np

from nasplug.spaces.chain import Chain
from nasplug.spaces.cost import Cost, conv, inverted_residual, linear

KERNELS = (3, 5, 7)
EXPANSIONS = (3, 6)
BLOCKS = tuple(f"k{k}e{e}" for e in EXPANSIONS for k in KERNELS)  # in the authors' order


class FairNAS(Chain):
    """6^19 = 6.1e14 networks for ImageNet.

    The authors report 345M multiply-adds and 4.5M parameters for FairNAS-B:

    >>> fairnas_b = [[1, 0, 1, 0, 3, 1, 2, 0, 3, 1, 0, 3, 2, 0, 5, 4, 5, 3, 4]]
    >>> FairNAS().flops(fairnas_b), FairNAS().params(fairnas_b)
    (array([345297632]), array([4506272]))
    """

    name = "fairnas"

    RESOLUTION = 224
    CLASSES = 1000
    STEM = 32  # channels of the first convolution
    FIRST = 16  # channels after the separable convolution that follows it
    # channels, layers, stride of the first layer
    STAGES = ((32, 2, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1))
    LAST = 1280  # channels before the classifier

    def __init__(self) -> None:
        super().__init__({f"layer{i}": BLOCKS for i in range(sum(n for _, n, _ in self.STAGES))})

    def fixed_cost(self) -> Cost:
        side = self.RESOLUTION // 2
        stem = conv(3, self.STEM, 3, side)
        first = inverted_residual(self.STEM, self.FIRST, 3, 1, 1, side)
        last = conv(self.STAGES[-1][0], self.LAST, 1, self.RESOLUTION // 32)
        return stem + first + last + linear(self.LAST, self.CLASSES)

    def choice_costs(self) -> Cost:
        side, c_in = self.RESOLUTION // 2, self.FIRST
        layers = []
        for c_out, repeats, first_stride in self.STAGES:
            for stride in (first_stride, *[1] * (repeats - 1)):
                layers.append(
                    [
                        inverted_residual(c_in, c_out, kernel, expansion, stride, side)
                        for expansion in EXPANSIONS
                        for kernel in KERNELS
                    ]
                )
                side, c_in = side // stride, c_out
        return np.array(layers)
