"""What layers cost, in closed form: an int64 array of (parameters, multiply-adds).

Costs add up, and every argument may be an array: with arguments of shape (n,) a cost is (2, n).
Batch norms and biases count as parameters but not as multiply-adds (inference folds them).
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from nasplug.kernel.space import Archs, Space

Cost = npt.NDArray[np.int64]
Ints = int | npt.NDArray[np.integer[Any]]


def conv(
    c_in: Ints, c_out: Ints, kernel: int, side: Ints, groups: Ints = 1, bn: bool = True
) -> Cost:
    """A square convolution without bias and its batch norm; the output is side x side."""
    weights = np.asarray(kernel**2 * c_in * c_out // groups)
    return np.stack(np.broadcast_arrays(weights + bn * 2 * np.asarray(c_out), weights * side**2))


def linear(c_in: Ints, c_out: int, bias: bool = True) -> Cost:
    """A fully connected layer, or the 1x1 convolution with bias of a single pixel."""
    return np.array([(c_in + bias) * c_out, c_in * c_out])


def inverted_residual(
    c_in: int, c_out: int, kernel: int, expansion: int, stride: int, side: int, se: bool = False
) -> Cost:
    """MobileNetV2's block: 1x1 to expansion * c_in, k x k depthwise, 1x1; the input is side x side.

    `se` adds MobileNetV3's squeeze-and-excitation to a quarter after the depthwise convolution.
    """
    middle = expansion * c_in
    out = -(-side // stride)
    cost = conv(middle, middle, kernel, out, groups=middle) + conv(middle, c_out, 1, out)
    if expansion > 1:
        cost += conv(c_in, middle, 1, side)
    if se:
        squeezed = round_channels(middle // 4)
        cost += linear(middle, squeezed) + linear(squeezed, middle)
    return cost


def round_channels(channels: float) -> int:
    """The nearest multiple of 8 that loses no more than a tenth (MobileNet's rule)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class Costed(Space):
    """A space whose networks' parameters and multiply-adds have a closed form."""

    @abstractmethod
    def costs(self, archs: Archs) -> Cost:
        """(n, d) -> (2, n): parameters and multiply-adds of the published network."""

    def params(self, archs: Archs) -> npt.NDArray[np.int64]:
        """(n, d) -> (n,): the parameters of each network."""
        return self.costs(archs)[0]

    def flops(self, archs: Archs) -> npt.NDArray[np.int64]:
        """(n, d) -> (n,): the multiply-adds of one image through each network."""
        return self.costs(archs)[1]


class Additive(Costed):
    """Each decision costs what its choice costs, whatever the others are."""

    @abstractmethod
    def fixed_cost(self) -> Cost:
        """(2,): what every network has, such as stem and classifier."""

    @abstractmethod
    def choice_costs(self) -> Cost:
        """(d, c, 2): what each choice of each decision costs."""

    @cached_property
    def _tables(self) -> tuple[Cost, Cost]:
        return self.fixed_cost(), np.moveaxis(self.choice_costs(), 2, 1).copy()

    def costs(self, archs: Archs) -> Cost:
        """(n, d) -> (2, n)."""
        fixed, tables = self._tables
        archs = np.asarray(archs)
        total = np.repeat(fixed[:, None], len(archs), 1)
        for i, table in enumerate(tables):
            total += table[:, archs[:, i]]
        return total
