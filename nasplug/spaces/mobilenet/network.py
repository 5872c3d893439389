"""MobileNetV3's layers and network, and the supernet in which all of them share weights.

Howard et al., "Searching for MobileNetV3", ICCV 2019, as Cai et al. (Once-for-All) have it, without
their dropout.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs
from nasplug.kernel.subspace import Mask, Region
from nasplug.nn.blocks import ConvBN, Residual, project
from nasplug.nn.mixed import Bools, Op, batch_statistics
from nasplug.nn.sliced import Sliced, SlicedOp
from nasplug.nn.supernet import Floats, Supernet
from nasplug.nn.training import initialise
from nasplug.spaces.cost import round_channels
from nasplug.spaces.mobilenet.space import (
    ABSENT,
    BLOCKS,
    DEPTHS,
    EXPANSIONS,
    KERNELS,
    LAYERS,
    OPTIONS,
    MobileNet,
)

# Least depth, kernel and expansion, as Once-for-All makes them elastic one after the other.
STAGES = ((4, 7, 6), (4, 3, 6), (3, 3, 6), (2, 3, 6), (2, 3, 4), (2, 3, 3))
REDUCTION = 4  # of the channels in a squeeze-and-excitation


class SqueezeExcite(nn.Module):
    """x -> x, each channel times what the means of all say (Hu et al., CVPR 2018)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        squeezed = round_channels(c // REDUCTION)
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, squeezed, 1), nn.ReLU(),
            nn.Conv2d(squeezed, c, 1), nn.Hardsigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale(x)


def inverted_residual(
    c_in: int, c_out: int, stride: int, kernel: int, expansion: int, se: bool, h_swish: bool
) -> Op:
    """MobileNetV3's block without its shortcut; the first convolution only if it expands."""
    hidden = expansion * c_in
    activation = nn.Hardswish if h_swish else nn.ReLU
    return Op(
        *([*ConvBN(c_in, hidden, 1), activation()] if expansion > 1 else []),
        *ConvBN(hidden, hidden, kernel, stride, depthwise=True),
        activation(),
        *([SqueezeExcite(hidden)] if se else []),
        *project(hidden, c_out),
    )


def layer(space: MobileNet, i: int, kernel: int, expansion: int) -> Op:
    """A block of searched layer i, without its shortcut."""
    shape, (*_, se, h_swish) = space.layers[i], space.UNITS[i // LAYERS]
    return inverted_residual(shape.c_in, shape.c_out, shape.stride, kernel, expansion, se, h_swish)


class Network(nn.Sequential):
    """(b, channels, h, w) -> (b, classes): stem, a fixed block, layers, classifier.

    layers: what each computes, None for a layer that is not there.
    """

    def __init__(self, space: MobileNet, layers: Sequence[nn.Module | None]) -> None:
        stem, last = space.layers[0].c_in, space.layers[-1].c_out
        before, after = map(space.channels, space.LAST)
        chain = [
            nn.Identity() if body is None else Residual(body) if shape.residual else body
            for body, shape in zip(layers, space.layers, strict=True)
        ]
        super().__init__(OrderedDict(
            stem=nn.Sequential(
                *ConvBN(space.sizes["channels"], stem, 3, space.strides[0]), nn.Hardswish()
            ),
            first=Residual(inverted_residual(stem, stem, 1, 3, 1, se=False, h_swish=False)),
            layers=nn.Sequential(*chain),
            last=nn.Sequential(*ConvBN(last, before, 1), nn.Hardswish()),
            pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            mix=nn.Sequential(nn.Linear(before, after, bias=False), nn.Hardswish()),
            classifier=nn.Linear(after, space.sizes["classes"]),
        ))  # fmt: skip


def build(space: MobileNet, arch: Archs) -> Network:
    """The network of one arch."""
    return Network(
        space,
        [layer(space, i, *OPTIONS[k - 1]) if k else None for i, k in enumerate(arch.tolist())],
    )


def supernet(space: MobileNet, region: Region, parts: int) -> MobileNetSupernet:
    """All archs, whatever the region: their weights are those of the largest."""
    if parts > 1:
        raise NasplugError(
            f"layers of {space.base} take all channels that they have, not 1/{parts} of them: "
            "take a method without partial channels"
        )
    return MobileNetSupernet(space)


class MobileNetSupernet(Supernet):
    """The largest network, of which archs take slices.

    Layers that are always there lack the choice of none, so that their first choice is the space's
    second. A mixture may leave a third layer out and have the fourth, as no arch does: `select`
    takes the best arch.
    """

    space: MobileNet

    def __init__(self, space: MobileNet) -> None:
        self.optional = np.tile(np.arange(LAYERS) >= min(DEPTHS), len(space.UNITS))
        mixed = []
        for i, optional in enumerate(self.optional.tolist()):
            blocks = Sliced(partial(layer, space, i), KERNELS, EXPANSIONS)
            mixed.append(SlicedOp(blocks, OPTIONS, i, optional))
        names = {
            name: BLOCKS[0 if optional else 1 :]
            for name, optional in zip(space.names, self.optional, strict=True)
        }
        costs = self._own(space.choice_costs()[..., 1])
        super().__init__(space, Network(space, mixed), names, costs, space.fixed_cost()[1])

    def _own(self, table: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(20, 10) by choices of the space, of which the first is False or 0 where it is none here
        -> by those here."""
        return np.where(self.optional[:, None], table, np.roll(table, -1, 1))

    def _of_space(self, table: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The inverse of `_own`."""
        return np.where(self.optional[:, None], table, np.roll(table, 1, 1))

    def inherit(self, arch: Archs) -> Network:
        """The network of an arch, as it is built, with the weights learned here."""
        model = initialise(lambda: build(self.space, arch), 0)
        batch_statistics(model)
        learned = {
            name: x for name, x in self.network.state_dict().items() if ".sliced." not in name
        }
        for name, op in self.network.named_modules():
            if isinstance(op, SlicedOp) and arch[op.decision]:
                weights = op.sliced.weights(*OPTIONS[arch[op.decision] - 1])
                learned |= {f"{name}.{own}": x for own, x in weights.items()}
        model.load_state_dict(learned)
        return model.to(next(self.parameters()).device)

    # ---- archs, masks and scores

    @property
    def idle(self) -> Bools:
        return self.named(ABSENT)

    def chosen(self, archs: Archs) -> Bools:
        return super().chosen(np.asarray(archs) - ~self.optional)

    def select(self, scores: Floats, region: Region | None = None) -> Archs:
        scores = self._of_space(np.where(self.exists, scores, -np.inf))
        units = scores.reshape(len(self.space.UNITS), LAYERS, len(BLOCKS))
        blocks, best, absent = 1 + units[..., 1:].argmax(-1), units[..., 1:].max(-1), units[..., 0]
        totals = [best[:, :depth].sum(1) + absent[:, depth:].sum(1) for depth in DEPTHS]
        depths = np.array(DEPTHS)[np.argmax(totals, 0)]
        arch = blocks * (np.arange(LAYERS) < depths[:, None])
        return arch.ravel().astype(self.space.dtype)

    def region(self, mask: Bools) -> Mask:
        return Mask(self.space, self._of_space(mask))

    def allowed(self, region: Region) -> Bools:
        if isinstance(region, Mask):
            return self._own(region.allowed) & self.exists
        return super().allowed(region)

    def stages(self) -> list[Bools]:
        masks = []
        for depth, kernel, expansion in STAGES:
            blocks = [k >= kernel and e >= expansion for k, e in OPTIONS]
            rows = [[i >= depth, *blocks] for i in range(LAYERS)] * len(self.space.UNITS)
            masks.append(self._own(np.array(rows)) & self.exists)
        return masks

    def draw(self, mask: Bools, n: int, rng: np.random.Generator) -> Archs:
        """Depths are drawn uniformly, as Once-for-All does: of all archs few have a short unit."""
        units = self._of_space(mask).reshape(len(self.space.UNITS), LAYERS, len(BLOCKS))
        depths = LAYERS - rng.integers(0, 1 + units[..., 0].sum(1), (n, len(units)))
        lots = np.where(units[..., 1:], rng.random((n, *units[..., 1:].shape)), -1)
        archs = (1 + lots.argmax(-1)) * (np.arange(LAYERS) < depths[..., None])
        return archs.reshape(n, -1).astype(self.space.dtype)
