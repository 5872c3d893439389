"""AnyNetX: residual bottlenecks with grouped convolutions in four stages, each of its own shape.

Radosavovic et al., "Designing Network Design Spaces", CVPR 2020, section 3.2.
"""

from __future__ import annotations

import re
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs, Seed
from nasplug.spaces.cost import Cost, Costed, conv, linear

STAGES = 4
DEPTHS = tuple(range(1, 17))
WIDTHS = tuple(range(8, 1025, 8))
RATIOS = (1, 2, 4)  # width / width of the bottleneck
GROUPS = (1, 2, 4, 8, 16, 32)  # channels in each group of the 3x3 convolution
QUANTITIES = {"depth": DEPTHS, "width": WIDTHS, "ratio": RATIOS, "group": GROUPS}

TEXT = re.compile(r"d(\d+)w(\d+)b(\d+)g(\d+)")


class AnyNetX(Costed):
    """(16 * 128 * 3 * 6)^4 = 1.8e18 points for ImageNet.

    Valid are those whose groups divide the bottleneck; pycls adjusts the widths of others,
    so every network is here, and every arch is the network that it says. RegNetX-400MF:

    >>> space = AnyNetX()
    >>> regnet = space.from_str("d1w32b1g16-d2w64b1g16-d7w160b1g16-d12w400b1g16")
    >>> space.params([regnet]), space.flops([regnet])
    (array([5495976]), array([413812608]))
    """

    name = "anynetx"

    RESOLUTION = 224
    CLASSES = 1000
    STEM = 32

    def __init__(self) -> None:
        super().__init__(
            {
                f"stage{stage}.{name}": values
                for stage in range(STAGES)
                for name, values in QUANTITIES.items()
            }
        )

    @property
    def count(self) -> int:
        return (len(DEPTHS) * len(self._fitting)) ** STAGES

    @cached_property
    def _fitting(self) -> npt.NDArray[np.int64]:
        """(k, 3): the widths, ratios and groups, as choices, whose groups divide the bottleneck."""
        width, ratio, group = np.ix_(WIDTHS, RATIOS, GROUPS)
        return np.argwhere(width // ratio % group == 0)

    def shapes(self, archs: Archs) -> npt.NDArray[np.int64]:
        """(n, 16) -> (4, 4, n): depth, width, ratio and group of each stage."""
        values = [np.array(choices) for choices in self.decisions.values()]
        columns = [v[column] for v, column in zip(values, np.asarray(archs).T, strict=True)]
        return np.array(columns).reshape(STAGES, len(QUANTITIES), len(archs))

    def is_valid(self, archs: Archs) -> npt.NDArray[np.bool_]:
        """Groups divide the bottleneck."""
        _, width, ratio, group = self.shapes(archs).swapaxes(0, 1)
        return (width // ratio % group == 0).all(0)

    def sample(self, n: int, seed: Seed = None) -> Archs:
        """n archs, (n, 16), drawn uniformly: stages are independent, and few shapes each."""
        rng = np.random.default_rng(seed)
        archs = np.empty((n, STAGES, len(QUANTITIES)), self.dtype)
        archs[..., 0] = rng.integers(len(DEPTHS), size=(n, STAGES))
        archs[..., 1:] = self._fitting[rng.integers(len(self._fitting), size=(n, STAGES))]
        return archs.reshape(n, self.d)

    def features(self, archs: Archs) -> npt.NDArray[np.float32]:
        """(n, 16) -> (n, 16): the rank of each choice in [0, 1], as all are quantities."""
        return (np.asarray(archs) / (self.cardinalities - 1)).astype(np.float32)

    def costs(self, archs: Archs) -> Cost:
        """(n, 16) -> (2, n)."""
        side, c_in = self.RESOLUTION // 2, np.full(len(archs), self.STEM)
        total = conv(3, c_in, 3, side)
        for depth, width, ratio, group in self.shapes(archs):
            out, inner = side // 2, width // ratio
            rest = conv(inner, inner, 3, out, groups=inner // group) + conv(inner, width, 1, out)
            total += conv(c_in, inner, 1, side) + rest + conv(c_in, width, 1, out)
            total += (depth - 1) * (conv(width, inner, 1, out) + rest)
            side, c_in = out, width
        return total + linear(c_in, self.CLASSES)

    def to_str(self, arch: npt.ArrayLike) -> str:
        """One arch -> its stages, each like d2w64b1g16, joined by '-'."""
        values = iter(self.to_dict(arch).values())
        return "-".join(f"d{d}w{w}b{b}g{g}" for d, w, b, g in zip(*[values] * 4, strict=True))

    def from_str(self, text: str) -> Archs:
        """The string form -> one arch (16,)."""
        stages = [TEXT.fullmatch(stage.strip()) for stage in text.split("-")]
        if len(stages) != STAGES or None in stages:
            raise NasplugError(
                f"an arch of {self.name} is four stages like d2w64b1g16 (depth, width, bottleneck "
                f"ratio, group width) joined by '-', got {text!r}"
            )
        values = [value for stage in stages if stage for value in stage.groups()]
        return self.from_dict(dict(zip(self.names, values, strict=True)))
