"""The layers of the hand-made space."""

from __future__ import annotations

from torch import nn

from nasplug.kernel.space import Archs
from nasplug.nn.blocks import inverted_residual
from nasplug.spaces.manual_irb.space import VARIANTS
from nasplug.spaces.skeleton.space import Layer


def layer(shape: Layer, choice: Archs) -> nn.Module | None:
    """The inverted residual of a choice (1,), None for no layer."""
    if not choice[0]:
        return None
    kernel, expansion = VARIANTS[choice[0] - 1]
    return inverted_residual(shape.c_in, shape.c_out, shape.stride, kernel, expansion)
