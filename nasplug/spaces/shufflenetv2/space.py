"""ShuffleNetV2-like networks: twenty layers, one of four choice blocks in each.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020.
"""

from __future__ import annotations

from dataclasses import replace

from nasplug.errors import NasplugError
from nasplug.spaces.cost import Cost, conv
from nasplug.spaces.skeleton.space import BlockSpace, Layer, Skeleton

KERNELS = (3, 5, 7, 3)  # of each block
XCEPTION = 3  # the block of three depthwise convolutions

PUBLISHED = Skeleton(
    16, 2, ((64, 4, 2), (160, 4, 2), (320, 8, 2), (640, 4, 2)), 1024,
    resolution=224, channels=3, classes=1000, bias=False, shortcuts=False,
)  # fmt: skip
CIFAR10 = replace(
    PUBLISHED, stem_stride=1, stages=((32, 4, 1), (64, 4, 2), (128, 8, 2), (256, 4, 2)), head=512,
    resolution=32, classes=10,
)  # fmt: skip
DIGITS = replace(
    CIFAR10, stem=8, stages=((16, 2, 1), (32, 2, 2), (64, 2, 2)), head=64, resolution=8, channels=1
)


class ShuffleNetV2(BlockSpace):
    """4^20 = 1.1e12 networks for ImageNet; smaller ones of the same blocks for other data.

    The network that the authors found has 323M multiply-adds and 3.5M parameters:

    >>> spos = [[2, 1, 0, 1, 2, 0, 2, 0, 2, 0, 2, 3, 0, 0, 0, 0, 3, 2, 3, 3]]
    >>> ShuffleNetV2().flops(spos), ShuffleNetV2().params(spos)
    (array([322918720]), array([3558464]))
    """

    base = "shufflenetv2"
    layer_network = "nasplug.spaces.shufflenetv2.network"
    skeletons = {  # noqa: RUF012 - of the class, and never changed
        "": PUBLISHED, "cifar10": CIFAR10, "cifar100": replace(CIFAR10, classes=100),
        "digits": DIGITS,
    }  # fmt: skip
    blocks = ("k3", "k5", "k7", "xception")

    def check_sizes(self) -> None:
        super().check_sizes()
        if any(x.c_out <= x.c_in for x in self.layers if not x.same):
            raise NasplugError(
                f"C={self.sizes['C']} is too narrow: the first layer of each stage of {self.base} "
                "adds channels; take C=2 or more"
            )

    def block_cost(self, shape: Layer, block: int) -> Cost:
        (c_in, beside), middle, out = branches(shape), shape.c_out // 2, shape.out
        kernel = KERNELS[block]
        if block == XCEPTION:
            cost = conv(c_in, c_in, kernel, out, groups=c_in) + conv(c_in, middle, 1, out)
            cost += 2 * conv(middle, middle, kernel, out, groups=middle)
            cost += conv(middle, middle, 1, out)
        else:
            cost = conv(c_in, middle, 1, shape.side)
            cost += conv(middle, middle, kernel, out, groups=middle)
        cost += conv(middle, shape.c_out - beside, 1, out)
        if not shape.same:
            cost += conv(beside, beside, kernel, out, groups=beside) + conv(beside, beside, 1, out)
        return cost


def branches(shape: Layer) -> tuple[int, int]:
    """How many channels the main branch takes, and how many the other has.

    Where the shape stays, every other channel passes untouched; where it changes, all go through
    both branches.
    """
    half = shape.c_in // 2
    return (half, shape.c_in - half) if shape.same else (shape.c_in, shape.c_in)
