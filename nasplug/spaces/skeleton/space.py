"""Skeleton: what is around the searched layers of a mobile network, at the size of its data.

Stem, stages of layers (the first of a stage changes the shape), a 1x1 convolution, a classifier.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError, unknown
from nasplug.kernel.space import Archs, Space
from nasplug.kernel.subspace import ArchSet, Ball, Layered, Mask, Region
from nasplug.spaces.cost import Cost, conv, inverted_residual, linear
from nasplug.spaces.sized import Sized

if TYPE_CHECKING:
    import torch

SMALLEST = 2  # pixels on a side that the last layer still sees


@dataclass(frozen=True)
class Layer:
    """The shape of a layer: its input is (c_in, side, side)."""

    c_in: int
    c_out: int
    stride: int
    side: int
    shortcut: bool = True  # whether its input is added to its output, where the shape stays

    @property
    def same(self) -> bool:
        """Whether its output has the shape of its input."""
        return self.stride == 1 and self.c_in == self.c_out

    @property
    def residual(self) -> bool:
        """Whether its input is added to its output."""
        return self.shortcut and self.same

    @property
    def out(self) -> int:
        """Pixels on a side of its output."""
        return -(-self.side // self.stride)

    def inverted_residual(self, kernel: int, expansion: int, se: bool = False) -> Cost:
        """(2,): what an inverted residual costs as this layer."""
        return inverted_residual(
            self.c_in, self.c_out, kernel, expansion, self.stride, self.side, se
        )

    def divided(self, parts: int) -> Layer:
        """The same layer for one of so many parts of the channels."""
        return replace(self, c_in=self.c_in // parts, c_out=self.c_out // parts)


def fitting(strides: Sequence[int], resolution: int) -> list[int]:
    """Strides of layers that follow each other, as far as images are large enough to be halved:
    the earliest halvings go first."""
    strides = list(strides)
    for i, stride in enumerate(strides):
        if resolution // int(np.prod(strides)) < SMALLEST and stride > 1:
            strides[i] = 1
    return strides


@dataclass(frozen=True)
class Skeleton:
    """stages: (channels, layers, stride of the first) each; a stage follows the other."""

    stem: int
    stem_stride: int
    stages: tuple[tuple[int, int, int], ...]
    head: int
    resolution: int
    channels: int  # of the images
    classes: int
    separable: int = 0  # channels after a separable convolution that follows the stem; 0: none
    bias: bool = True  # of the classifier
    shortcuts: bool = True  # around layers that keep the shape

    def layers(self) -> list[Layer]:
        found = []
        c_in, side = self.separable or self.stem, -(-self.resolution // self.stem_stride)
        for c_out, repeats, first in self.stages:
            for stride in (first, *[1] * (repeats - 1)):
                found.append(Layer(c_in, c_out, stride, side, self.shortcuts))
                c_in, side = c_out, -(-side // stride)
        return found

    def sizes(self) -> dict[str, int]:
        """What `resized` can change."""
        return {
            "layers": sum(n for _, n, _ in self.stages), "C": self.stages[0][0],
            "resolution": self.resolution, "channels": self.channels, "classes": self.classes,
        }  # fmt: skip

    def cost(self) -> Cost:
        """(2,): parameters and multiply-adds of all but the searched layers."""
        first, *_, last = self.layers()
        stem = conv(self.channels, self.stem, 3, first.side)
        if self.separable:
            stem += inverted_residual(self.stem, self.separable, 3, 1, 1, first.side)
        head = conv(last.c_out, self.head, 1, last.out)
        return stem + head + linear(self.head, self.classes, self.bias)

    def resized(
        self,
        layers: int = 0,
        C: int = 0,
        resolution: int = 0,
        channels: int = 0,
        classes: int = 0,
    ) -> Skeleton:
        """Other numbers where one is given: of layers, spread evenly over the stages (the first
        ones, if there are fewer layers), and of channels of the first stage, the others in
        proportion. Small images are halved less."""
        stages = list(self.stages)
        if layers:
            stages = stages[:layers]
            share = [len(part) for part in np.array_split(np.arange(layers), len(stages))]
            stages = [(c, n, s) for (c, _, s), n in zip(stages, share, strict=True)]
        stem, separable, head = self.stem, self.separable, self.head
        if C:
            ratio = C / stages[0][0]
            stem, head = (max(1, round(c * ratio)) for c in (stem, head))
            separable = separable and max(1, round(separable * ratio))
            stages = [(max(1, round(c * ratio)), n, s) for c, n, s in stages]
        resolution = resolution or self.resolution
        strides = fitting([self.stem_stride, *(s for _, _, s in stages)], resolution)
        stages = [(c, n, s) for (c, n, _), s in zip(stages, strides[1:], strict=True)]
        return replace(
            self, stem=stem, stem_stride=strides[0], separable=separable, stages=tuple(stages),
            head=head, resolution=resolution, channels=channels or self.channels,
            classes=classes or self.classes,
        )  # fmt: skip


SKELETONS = {  # by the data; the first is ProxylessNAS's, for all but what is named
    "": Skeleton(
        32, 2, ((24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1)), 1280,
        resolution=224, channels=3, classes=1000,
    ),
    "cifar10": Skeleton(
        16, 1, ((24, 3, 1), (48, 3, 2), (96, 3, 2)), 256, resolution=32, channels=3, classes=10
    ),
    "cifar100": Skeleton(
        16, 1, ((24, 3, 1), (48, 3, 2), (96, 3, 2)), 256, resolution=32, channels=3, classes=100
    ),
    "digits": Skeleton(
        8, 1, ((8, 2, 1), (16, 2, 2), (32, 2, 2)), 64, resolution=8, channels=1, classes=10
    ),
}  # fmt: skip


class SkeletonSpace(Sized):
    """Networks of one searched layer after the other on a `Skeleton`.

    Each layer has as many decisions of its own, one or more. The sizes are those that
    `Skeleton.resized` can change: ``open-cells:layers=6,C=8``.
    """

    network = "nasplug.spaces.skeleton.network"
    layer_network: ClassVar[str]  # the module that builds layers: ``layer(shape, choice)``
    skeletons: ClassVar[dict[str, Skeleton]] = SKELETONS

    def check_sizes(self) -> None:
        skeleton = self.skeletons.get(self.data, self.skeletons[""])
        preset = skeleton.sizes()
        changed = {name: self.sizes[name] for name in preset if self.sizes[name] != preset[name]}
        self.skeleton = skeleton.resized(**changed)
        self.layers = self.skeleton.layers()
        self.sizes = {**self.sizes, **self.skeleton.sizes()}

    @classmethod
    def preset(cls, data: str) -> dict[str, int]:
        return cls.skeletons.get(data, cls.skeletons[""]).sizes()

    @abstractmethod
    def layer_costs(self, archs: Archs) -> Cost:
        """(n, d) -> (2, L, n): what the layers of each arch cost."""

    @property
    def width(self) -> int:
        """The decisions of a layer."""
        return self.d // len(self.layers)

    def split(self, archs: Archs) -> Archs:
        """(n, d) -> (n, L, width): the decisions of each layer."""
        return np.asarray(archs).reshape(-1, len(self.layers), self.width)

    def costs(self, archs: Archs) -> Cost:
        """(n, d) -> (2, n)."""
        return self._fixed[:, None] + self.layer_costs(np.asarray(archs)).sum(1)

    @cached_property
    def _fixed(self) -> Cost:
        return self.skeleton.cost()

    def layer(self, i: int, choice: npt.ArrayLike, parts: int = 1) -> torch.nn.Module | None:
        """What layer i computes for its decisions (width,), without its shortcut; None if nothing.

        parts: made for one of so many parts of the channels.
        """
        shape = self.layers[i].divided(parts)
        module = import_module(self.layer_network)
        found: torch.nn.Module | None = module.layer(shape, np.asarray(choice))
        return found

    @abstractmethod
    def layered(self) -> Layered:
        """All of it as a layered subspace of its own; NasplugError if there are too many choices
        to train them side by side."""

    def layers_of(self, region: Region) -> Layered:
        """A region as choices of each layer; NasplugError if it has none."""
        if isinstance(region, Layered):
            return region
        if isinstance(region, ArchSet):
            rows = self.split(region.archs).swapaxes(0, 1)
            return Layered(self, [np.unique(choices, axis=0) for choices in rows])
        if isinstance(region, Space | Mask | Ball):
            return self.layered()
        raise NasplugError(
            f"a supernet of {self.base} is made of choices of each layer, and a "
            f"{region.describe()} is not: search within a mask, a set or a layered space"
        )

    def layer_name(self, i: int, choice: npt.ArrayLike) -> str:
        """(width,) -> a choice of layer i in words."""
        return self.layer_str(choice)

    def to_str(self, arch: npt.ArrayLike) -> str:
        """One arch -> its layers from input to output, joined by '-'."""
        rows = self.split(np.asarray(arch)[None])[0]
        return "-".join(self.layer_str(row) for row in rows)

    def from_str(self, text: str) -> Archs:
        """The layers joined by '-' -> one arch (d,)."""
        layers = [layer.strip() for layer in text.split("-")]
        if len(layers) != len(self.layers):
            example = self.to_str(self.sample(1, 0)[0])
            raise NasplugError(
                f"an arch of {self.name} is {len(self.layers)} layers joined by '-', got "
                f"{len(layers)}: {text!r}; an example is {example}"
            )
        rows = [self.layer_from_str(layer) for layer in layers]
        return np.concatenate(rows).astype(self.dtype)

    @abstractmethod
    def layer_str(self, choice: npt.ArrayLike) -> str:
        """(width,) -> the string of a layer; no '-' in it."""

    @abstractmethod
    def layer_from_str(self, text: str) -> Archs:
        """The inverse of `layer_str`."""


class BlockSpace(SkeletonSpace):
    """One decision per layer: which of some `blocks` it is."""

    blocks: ClassVar[tuple[str, ...]]

    @abstractmethod
    def block_cost(self, shape: Layer, block: int) -> Cost:
        """(2,): what a block costs as a layer of a shape."""

    def find_decisions(self) -> dict[str, tuple[str, ...]]:
        return {f"layer{i}": self.blocks for i in range(len(self.layers))}

    def layer_costs(self, archs: Archs) -> Cost:
        return self._tables[np.arange(self.d), archs].transpose(2, 1, 0)

    @cached_property
    def _tables(self) -> Cost:
        """(L, blocks, 2): what each block costs in each layer."""
        numbers = range(len(self.blocks))
        return np.array([[self.block_cost(x, block) for block in numbers] for x in self.layers])

    def layered(self) -> Layered:
        return Layered(self, [np.arange(len(self.blocks))[:, None]] * self.d)

    def layer_str(self, choice: npt.ArrayLike) -> str:
        return self.blocks[int(np.asarray(choice)[0])]

    def layer_from_str(self, text: str) -> Archs:
        if text not in self.blocks:
            raise unknown(f"block of {self.base}", text, self.blocks)
        return np.array([self.blocks.index(text)])
