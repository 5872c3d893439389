"""MobileNetV3-like networks: five units of two to four inverted residuals each.

Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment",
ICLR 2020; encoded as in Chen et al., "Automated Dominative Subspace Mining" (DSM-NAS).
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs, Seed
from nasplug.spaces.cost import (
    Additive,
    Cost,
    conv,
    inverted_residual,
    linear,
    round_channels,
)
from nasplug.spaces.sized import Sized
from nasplug.spaces.skeleton.space import Layer, fitting

KERNELS = (3, 5, 7)
EXPANSIONS = (3, 4, 6)
DEPTHS = (2, 3, 4)
LAYERS = max(DEPTHS)  # of a unit
ABSENT = "0"
OPTIONS = tuple((k, e) for e in EXPANSIONS for k in KERNELS)
BLOCKS = (ABSENT, *(f"k{k}e{e}" for k, e in OPTIONS))


class MobileNet(Sized, Additive):
    """(9^2 + 9^3 + 9^4)^5 = 2.2e19 networks in 20 decisions.

    Choice 0 is a layer that is not there: the third, or the third and the fourth of a unit
    (never the third alone). The size `width` multiplies all channels. OFA published networks for
    ImageNet of 1.0, whose largest has 7.7M parameters and 566M multiply-adds, and of 1.2, the
    default: with it the 600M that the papers allow is a limit. Small images are halved less.

    >>> space = MobileNet("cifar10")
    >>> space.sizes["width"], MobileNet(width=1.0).name
    (0.5, 'mobilenet:width=1.0')
    """

    base = "mobilenet"
    network = "nasplug.spaces.mobilenet.network"
    presets: ClassVar = {
        "": {"width": 1.2, "channels": 3, "classes": 1000, "resolution": 224},
        "cifar10": {"width": 0.5, "classes": 10, "resolution": 32},
        "cifar100": {"width": 0.5, "classes": 100, "resolution": 32},
        "digits": {"width": 0.25, "channels": 1, "classes": 10, "resolution": 8},
    }

    STEM = 16
    STEM_STRIDE = 2
    # channels, stride of the first layer, squeeze-and-excitation, h-swish instead of ReLU
    UNITS = (
        (24, 2, False, False),
        (40, 2, True, False),
        (80, 2, False, True),
        (112, 1, True, True),
        (160, 2, True, True),
    )
    LAST = (960, 1280)  # channels before and after global pooling

    def find_decisions(self) -> dict[str, tuple[str, ...]]:
        layers = [f"unit{u}.layer{i}" for u in range(len(self.UNITS)) for i in range(LAYERS)]
        return dict.fromkeys(layers, BLOCKS)

    @property
    def count(self) -> int:
        return int(sum((len(BLOCKS) - 1) ** depth for depth in DEPTHS)) ** len(self.UNITS)

    def depths(self, archs: Archs) -> npt.NDArray[np.int64]:
        """(n, 20) -> (n, 5): the layers of each unit."""
        return (self._units(archs) > 0).sum(-1)

    def _units(self, archs: Archs) -> Archs:
        """(n, 20) -> (n, 5, 4)."""
        return np.asarray(archs).reshape(len(archs), len(self.UNITS), LAYERS)

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
        blocks = rng.integers(1, len(BLOCKS), (n, len(self.UNITS), LAYERS), self.dtype)
        return (blocks * (np.arange(LAYERS) < depths)).reshape(n, self.d)

    def to_str(self, arch: npt.ArrayLike) -> str:
        """One arch -> its blocks from input to output, joined by '-'."""
        return "-".join(self.to_dict(arch).values())

    def from_str(self, text: str) -> Archs:
        """The blocks joined by '-' -> one arch (d,)."""
        blocks = [block.strip() for block in text.split("-")]
        if len(blocks) != self.d:
            example = self.to_str(np.ones(self.d, dtype=int))
            raise NasplugError(
                f"an arch of {self.name} is {self.d} blocks joined by '-', got {len(blocks)}: "
                f"{text!r}; an example is {example}"
            )
        return self.from_dict(dict(zip(self.names, blocks, strict=True)))

    # ---- the networks

    def channels(self, channels: int) -> int:
        """What the width makes of some channels."""
        return round_channels(channels * self.sizes["width"])

    @cached_property
    def strides(self) -> list[int]:
        """Of the stem, and of the first layer of each unit."""
        strides = [self.STEM_STRIDE, *(stride for _, stride, *_ in self.UNITS)]
        return fitting(strides, self.sizes["resolution"])

    @cached_property
    def layers(self) -> list[Layer]:
        """The shapes of the searched layers."""
        found = []
        c_in, side = self.channels(self.STEM), -(-self.sizes["resolution"] // self.strides[0])
        for (channels, *_), first in zip(self.UNITS, self.strides[1:], strict=True):
            for stride in (first, *[1] * (LAYERS - 1)):
                found.append(layer := Layer(c_in, self.channels(channels), stride, side))
                c_in, side = layer.c_out, layer.out
        return found

    def fixed_cost(self) -> Cost:
        first, last = self.layers[0], self.layers[-1]
        before, after = map(self.channels, self.LAST)
        cost = conv(self.sizes["channels"], first.c_in, 3, first.side)
        cost += inverted_residual(first.c_in, first.c_in, 3, 1, 1, first.side)
        cost += conv(last.c_out, before, 1, last.out)
        return cost + linear(before, after, bias=False) + linear(after, self.sizes["classes"])

    def choice_costs(self) -> Cost:
        table = np.zeros((self.d, len(BLOCKS), 2), np.int64)
        for i, x in enumerate(self.layers):
            se = self.UNITS[i // LAYERS][2]
            for k, option in enumerate(OPTIONS, start=1):
                table[i, k] = x.inverted_residual(*option, se)
        return table
