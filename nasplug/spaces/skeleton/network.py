"""Mobile networks: one searched layer after the other, on a skeleton; and their supernet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import nn

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs, Space
from nasplug.kernel.subspace import Layered, Mask, Region
from nasplug.nn.blocks import ConvBNReLU, Residual, project
from nasplug.nn.mixed import Bools, MixedOp, Zero, check_partial
from nasplug.nn.supernet import Floats, Supernet
from nasplug.spaces.skeleton.space import Skeleton, SkeletonSpace


class Network(nn.Sequential):
    """Stem, layers, 1x1 convolution, classifier: (b, channels, h, w) -> (b, classes).

    layers: what each computes, None for a layer that is not there.
    """

    def __init__(self, skeleton: Skeleton, layers: Sequence[nn.Module | None]) -> None:
        shapes = skeleton.layers()
        chain = [
            body if body is None or not shape.residual else Residual(body)
            for body, shape in zip(layers, shapes, strict=True)
        ]
        stem: nn.Module = ConvBNReLU(skeleton.channels, skeleton.stem, 3, skeleton.stem_stride)
        if skeleton.separable:
            depthwise = ConvBNReLU(skeleton.stem, skeleton.stem, 3, depthwise=True)
            stem = nn.Sequential(stem, depthwise, project(skeleton.stem, skeleton.separable))
        super().__init__(
            stem,
            nn.Sequential(*(nn.Identity() if body is None else body for body in chain)),
            ConvBNReLU(shapes[-1].c_out, skeleton.head, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(skeleton.head, skeleton.classes, skeleton.bias),
        )


def build(space: SkeletonSpace, arch: Archs) -> Network:
    """The network of one arch."""
    choices = space.split(arch[None])[0]
    return Network(space.skeleton, [space.layer(i, choice) for i, choice in enumerate(choices)])


def supernet(space: SkeletonSpace, region: Region, partial: int) -> LayeredSupernet:
    """Every choice of every layer of a region side by side, each with weights of its own.

    partial: in layers that keep the shape; others have no channels to pass on.
    """
    layers = space.layers_of(region)
    mixed = []
    for i, (rows, shape) in enumerate(zip(layers.choices, space.layers, strict=True)):
        parts = partial if shape.residual else 1
        check_partial(shape.c_in, parts)
        ops = [space.layer(i, row, parts) or Zero(shape.stride) for row in rows]
        mixed.append(MixedOp(ops, i, parts, shape.stride))
    return LayeredSupernet(space, mixed, layers)


class LayeredSupernet(Supernet):
    """A network whose decisions are its layers, each between the choices that it holds."""

    space: SkeletonSpace

    def __init__(self, space: SkeletonSpace, mixed: Sequence[MixedOp], layers: Layered) -> None:
        nothing = {f"layer {i}": ("",) for i in range(len(mixed))}
        fixed = float(space.skeleton.cost()[1])
        super().__init__(space, Network(space.skeleton, mixed), nothing, np.zeros(1), fixed)
        self.hold(layers)

    def hold(self, layers: Layered) -> None:
        """Have these choices in each layer from now on.

        With ``Layered(space, [[[1], [2]], [[0]]])``, masks and scores are (2, 2): layer 0 is
        between k3e3 and k5e3, and layer 1 can only be zero, so that its second place is none.
        """
        self.layers = layers
        self.choices = tuple(map(tuple, layers.names()))
        counts = [len(rows) for rows in layers.choices]
        index = np.minimum(np.arange(max(counts))[:, None], np.array(counts) - 1)
        costs = self.space.layer_costs(layers.compose(index))[1].astype(float)
        self.costs = np.where(self.exists, costs, 0.0)

    @property
    def idle(self) -> Bools:
        return self.exists & (self.costs == 0)

    def chosen(self, archs: Archs) -> Bools:
        return self.layers.index(archs)[..., None] == np.arange(self.exists.shape[1])

    def select(self, scores: Floats, region: Region | None = None) -> Archs:
        best = np.where(self.exists, scores, -np.inf).argmax(-1)
        return self.layers.compose(best[None])[0]

    def region(self, mask: Bools) -> Layered:
        rows = zip(self.layers.choices, mask, strict=True)
        return Layered(self.space, [choices[taken[: len(choices)]] for choices, taken in rows])

    def allowed(self, region: Region) -> Bools:
        inside = self.exists
        for i, rows in enumerate(self.layers.choices):
            inside[i, : len(rows)] &= self._inside(region, i, rows)
        if not (some := inside.any(1)).all():
            i = int(np.argmin(some))
            raise NasplugError(
                f"{region.describe()} leaves layer {i} without a choice: it takes "
                f"{', '.join(self.choices[i])}"
            )
        return inside

    def _inside(self, region: Region, i: int, rows: Archs) -> npt.NDArray[np.bool_]:
        """(k, width) choices of layer i -> (k,): which of them the region has."""
        if isinstance(region, Space):
            return np.ones(len(rows), bool)
        if isinstance(region, Layered):
            return np.any(np.all(rows[:, None] == region.choices[i], axis=2), axis=1)
        if isinstance(region, Mask):
            width = rows.shape[1]
            allowed = region.allowed[i * width : (i + 1) * width]
            return np.all(allowed[np.arange(width), rows], axis=1)
        raise self.refuse(region)
