"""The layers of FairNAS (Chu et al., ICCV 2021)."""

from __future__ import annotations

from torch import nn

from nasplug.kernel.space import Archs
from nasplug.nn.blocks import inverted_residual
from nasplug.spaces.manual_irb.space import VARIANTS
from nasplug.spaces.skeleton.space import Layer


def layer(shape: Layer, choice: Archs) -> nn.Module:
    """The inverted residual of a choice (1,)."""
    return inverted_residual(shape.c_in, shape.c_out, shape.stride, *VARIANTS[choice[0]])
