"""MobileNetV3-like networks: five units of two to four inverted residuals each.

Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment",
ICLR 2020; encoded as in Chen et al., "Automated Dominative Subspace Mining" (DSM-NAS).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs, Seed
from nasplug.spaces.chain import Chain
from nasplug.spaces.cost import Cost, conv, inverted_residual, linear, round_channels

KERNELS = (3, 5, 7)
EXPANSIONS = (3, 4, 6)
DEPTHS = (2, 3, 4)
ABSENT = "0"
BLOCKS = (ABSENT, *(f"k{k}e{e}" for e in EXPANSIONS for k in KERNELS))  # DSM-NAS's numbering


class MobileNet(Chain):
    """(9^2 + 9^3 + 9^4)^5 = 2.2e19 networks for ImageNet in 20 decisions.

    Choice 0 is a layer that is not there: the third, or the third and the fourth of a unit
    (never the third alone). `width` multiplies all channels. OFA published 1.0, whose largest
    network has 7.7M parameters and 566M multiply-adds, and 1.2, the default: with it the
    600M that the papers allow is a limit.
    """

    name = "mobilenet"

    RESOLUTION = 224
    CLASSES = 1000
    STEM = 16
    # channels, stride of the first layer, squeeze-and-excitation
    UNITS = ((24, 2, False), (40, 2, True), (80, 2, False), (112, 1, True), (160, 2, True))
    LAST = (960, 1280)  # channels before and after global pooling

    def __init__(self, width: float = 1.2) -> None:
        if width <= 0:
            raise NasplugError(f"the width of a MobileNet is positive, got {width}")
        self.width = width
        layers = [f"unit{u}.layer{i}" for u in range(len(self.UNITS)) for i in range(max(DEPTHS))]
        super().__init__(dict.fromkeys(layers, BLOCKS))

    @property
    def count(self) -> int:
        return int(sum((len(BLOCKS) - 1) ** depth for depth in DEPTHS)) ** len(self.UNITS)

    def depths(self, archs: Archs) -> npt.NDArray[np.int64]:
        """(n, 20) -> (n, 5): the layers of each unit."""
        return (self._units(archs) > 0).sum(-1)

    def _units(self, archs: Archs) -> Archs:
        """(n, 20) -> (n, 5, 4)."""
        return np.asarray(archs).reshape(len(archs), len(self.UNITS), max(DEPTHS))

    def is_valid(self, archs: Archs) -> npt.NDArray[np.bool_]:
        """Absent layers come last in their unit, and two layers are always there."""
        there = self._units(archs) > 0
        ordered = there[..., :-1] >= there[..., 1:]
        return np.all(there[..., : min(DEPTHS)], (1, 2)) & np.all(ordered, (1, 2))

    def sample(self, n: int, seed: Seed = None) -> Archs:
        """n archs, (n, 20), drawn uniformly: the depths first, in proportion to 9^depth."""
        rng = np.random.default_rng(seed)
        ways = (len(BLOCKS) - 1.0) ** np.array(DEPTHS)
        depths = rng.choice(DEPTHS, (n, len(self.UNITS), 1), p=ways / ways.sum())
        blocks = rng.integers(1, len(BLOCKS), (n, len(self.UNITS), max(DEPTHS)), self.dtype)
        return (blocks * (np.arange(max(DEPTHS)) < depths)).reshape(n, self.d)

    def _channels(self, channels: int) -> int:
        return round_channels(channels * self.width)

    def fixed_cost(self) -> Cost:
        side = self.RESOLUTION // 2
        stem, (before, after) = self._channels(self.STEM), map(self._channels, self.LAST)
        first = conv(3, stem, 3, side) + inverted_residual(stem, stem, 3, 1, 1, side)
        last = conv(self._channels(self.UNITS[-1][0]), before, 1, self.RESOLUTION // 32)
        head = linear(before, after, bias=False) + linear(after, self.CLASSES)
        return first + last + head

    def choice_costs(self) -> Cost:
        side, c_in = self.RESOLUTION // 2, self._channels(self.STEM)
        layers = []
        for channels, first_stride, se in self.UNITS:
            c_out = self._channels(channels)
            for stride in (first_stride, *[1] * (max(DEPTHS) - 1)):
                blocks = [
                    inverted_residual(c_in, c_out, kernel, expansion, stride, side, se)
                    for expansion in EXPANSIONS
                    for kernel in KERNELS
                ]
                layers.append([np.zeros(2, np.int64), *blocks])
                side, c_in = side // stride, c_out
        return np.array(layers)
