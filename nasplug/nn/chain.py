"""Mobile networks: one searched layer after the other, on a skeleton; and their supernet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nasplug.errors import NasplugError
from nasplug.nn.convolution import Pointwise
from nasplug.nn.data import Images
from nasplug.nn.macro import ConvBN
from nasplug.nn.mixed import Bools, MixedOp, Op, Zero
from nasplug.nn.supernet import Floats, Supernet
from nasplug.space import Archs
from nasplug.spaces.skeleton import Layer, Skeleton, SkeletonSpace
from nasplug.subspace import Layered, Mask, Region


class ConvBNReLU(ConvBN):
    """(b, c_in, h, w) -> (b, c_out, h/s, w/s)."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, depthwise: bool = False
    ) -> None:
        super().__init__(c_in, c_out, kernel, stride, depthwise)
        self.append(nn.ReLU())


def project(c_in: int, c_out: int) -> Op:
    """(b, c_in, h, w) -> (b, c_out, h, w): a linear 1x1 convolution and batch norm."""
    return Op(Pointwise(c_in, c_out), nn.BatchNorm2d(c_out))


def inverted_residual(layer: Layer, kernel: int, expansion: int) -> Op:
    """MobileNetV2's block without its shortcut, which is `Residual`'s: 1x1, depthwise, 1x1.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
    """
    hidden = expansion * layer.c_in
    return Op(
        ConvBNReLU(layer.c_in, hidden, 1),
        ConvBNReLU(hidden, hidden, kernel, layer.stride, depthwise=True),
        *project(hidden, layer.c_out),
    )


class Residual(nn.Module):
    """x -> x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


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
        super().__init__(
            ConvBNReLU(skeleton.channels, skeleton.stem, 3, skeleton.stem_stride),
            nn.Sequential(*(nn.Identity() if body is None else body for body in chain)),
            ConvBNReLU(shapes[-1].c_out, skeleton.head, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(skeleton.head, skeleton.classes),
        )


class LayeredSupernet(Supernet):
    """A network whose decisions are its layers, and whose operations are the choices of each.

    layers: the region of its choices; a layer with fewer than others has none in its last places.
    """

    space: SkeletonSpace
    layers: Layered

    def __init__(self, space: SkeletonSpace, skeleton: Skeleton, mixed: Sequence[MixedOp]) -> None:
        names = tuple(f"layer {i}" for i in range(len(mixed)))
        super().__init__(space, names, Network(skeleton, mixed))

    def hold(self, layers: Layered) -> None:
        self.layers = layers
        self.ops = tuple(f"choice {k}" for k in range(max(map(len, layers.choices))))

    @property
    def every(self) -> Bools:
        """(L, K): the choices that there are."""
        counts = [len(rows) for rows in self.layers.choices]
        return np.arange(len(self.ops)) < np.array(counts)[:, None]

    @property
    def costs(self) -> Floats:
        """(L, K): the multiply-adds of each choice."""
        index = np.minimum(
            np.arange(len(self.ops))[:, None], [len(rows) - 1 for rows in self.layers.choices]
        )
        return self.space.layer_costs(self.layers.compose(index))[1].astype(float)

    @property
    def idle(self) -> Bools:
        """(L, K): the choices that are no layer."""
        return self.every & (self.costs == 0)

    def chosen(self, archs: Archs) -> Bools:
        return self.layers.index(archs)[..., None] == np.arange(len(self.ops))

    def select(self, scores: Floats) -> Archs:
        best = np.where(self.every, scores, -np.inf).argmax(-1)
        return self.layers.compose(best[None])[0]

    def groups(self) -> list[list[int]]:
        return [[*range(len(self.decisions))]]

    def incoming(self) -> list[list[int]]:
        return [[i] for i in range(len(self.decisions))]

    def region(self, mask: Bools) -> Layered:
        rows = zip(self.layers.choices, mask, strict=True)
        return Layered(self.space, [choices[kept[: len(choices)]] for choices, kept in rows])

    def allowed(self, region: Region) -> Bools:
        inside = self.every
        if isinstance(region, Mask):
            for i, rows in enumerate(self.layers.choices):
                inside[i, : len(rows)] = region.allowed[i, rows[:, 0]]
        elif region is not self.space and region is not self.layers:
            raise NasplugError(f"{region.describe()} cannot be relaxed: it is not made of layers")
        return inside


class ChainSupernet(LayeredSupernet):
    """Every choice of every layer of a region side by side, each with weights of its own."""

    def __init__(self, layers: Layered, skeleton: Skeleton) -> None:
        space = layers.space
        assert isinstance(space, SkeletonSpace)
        mixed = [
            MixedOp([space.layer(i, row) or Zero() for row in rows], decision=i)
            for i, rows in enumerate(layers.choices)
        ]
        super().__init__(space, skeleton, mixed)
        self.hold(layers)


def skeleton_for(space: SkeletonSpace, images: Images) -> Skeleton:
    """The space's skeleton for images of this resolution, with these channels and classes."""
    return space.skeleton.resized(
        resolution=images.resolution, channels=images.in_channels, classes=images.num_classes
    )


def layers_of(region: Region) -> Layered:
    """A region as choices of each layer; NasplugError if it has none."""
    if isinstance(region, SkeletonSpace):
        return region.layered()
    if isinstance(region, Mask) and isinstance(region.space, SkeletonSpace):
        return region.space.layered()
    if isinstance(region, Layered) and isinstance(region.space, SkeletonSpace):
        return region
    raise NasplugError(
        f"paths are searched in spaces of layers (manual-irb, or a layered one that another "
        f"search has ended with), not in {region.describe()}"
    )


@torch.no_grad()
def count(model: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image of that shape, of a built network.

    Counted on the network itself: convolutions and linear layers, as `nasplug.spaces.cost` does.
    """
    total = 0

    def hear(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += module.weight[0].numel() * output[0].numel()
        elif isinstance(module, nn.Linear):
            total += module.weight.numel()

    handles = [module.register_forward_hook(hear) for module in model.modules()]
    training = model.training
    model.eval()(torch.zeros(1, *shape, device=next(model.parameters()).device))
    model.train(training)
    for handle in handles:
        handle.remove()
    return sum(p.numel() for p in model.parameters()), total
