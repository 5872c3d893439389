"""The choice blocks of SPOS (Guo et al., ECCV 2020): those of ShuffleNetV2 (Ma et al., ECCV 2018)
with kernels of 3, 5 and 7, and a deeper one in the manner of Xception."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nasplug.kernel.space import Archs
from nasplug.nn.blocks import ConvBN, ConvBNReLU
from nasplug.spaces.shufflenetv2.space import KERNELS, XCEPTION, branches
from nasplug.spaces.skeleton.space import Layer


class Split(nn.Module):
    """(b, c_in, h, w) -> (b, c_out, h/s, w/s): the outputs of two branches side by side.

    Without a second branch (`beside`) every other channel passes untouched, which shuffles what
    the block before has put side by side.
    """

    def __init__(self, main: nn.Module, beside: nn.Module | None) -> None:
        super().__init__()
        self.main, self.beside = main, beside

    def forward(self, x: Tensor) -> Tensor:
        if self.beside is None:
            return torch.cat([x[:, ::2], self.main(x[:, 1::2])], dim=1)
        return torch.cat([self.beside(x), self.main(x)], dim=1)


def layer(shape: Layer, choice: Archs) -> nn.Module:
    """The block of a choice (1,)."""
    block, stride = int(choice[0]), shape.stride
    (c_in, c_beside), middle, kernel = branches(shape), shape.c_out // 2, KERNELS[block]
    if block == XCEPTION:
        main = [
            ConvBN(c_in, c_in, kernel, stride, depthwise=True),
            ConvBNReLU(c_in, middle, 1),
            ConvBN(middle, middle, kernel, depthwise=True),
            ConvBNReLU(middle, middle, 1),
            ConvBN(middle, middle, kernel, depthwise=True),
        ]
    else:
        main = [
            ConvBNReLU(c_in, middle, 1),
            ConvBN(middle, middle, kernel, stride, depthwise=True),
        ]
    main.append(ConvBNReLU(middle, shape.c_out - c_beside, 1))
    beside = None
    if not shape.same:
        beside = nn.Sequential(
            ConvBN(c_in, c_beside, kernel, stride, depthwise=True),
            ConvBNReLU(c_beside, c_beside, 1),
        )
    return Split(nn.Sequential(*main), beside)
