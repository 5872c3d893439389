"""The layers of NAS-Bench-Macro (Su et al., CVPR 2021): MobileNetV2's blocks."""

from __future__ import annotations

from torch import nn

from nasplug.kernel.space import Archs
from nasplug.nn.blocks import ConvBN, inverted_residual
from nasplug.spaces.macro.space import EXPANSION, KERNEL
from nasplug.spaces.skeleton.space import Layer


def layer(shape: Layer, choice: Archs) -> nn.Module | None:
    """The layer of a choice (1,); where the shape changes the identity is a 1x1 convolution."""
    op = int(choice[0])
    if op:
        return inverted_residual(shape.c_in, shape.c_out, shape.stride, KERNEL[op], EXPANSION[op])
    return None if shape.residual else ConvBN(shape.c_in, shape.c_out, 1, shape.stride)
