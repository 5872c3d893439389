"""The network of NAS-Bench-Macro (Su et al., CVPR 2021) with MobileNetV2's blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nasplug.nn.convolution import Depthwise, convolution
from nasplug.spaces.macro import EXPANSION, HEAD, KERNEL, STEM, layers


class ConvBN(nn.Sequential):
    """A bias-free convolution and batch norm: (b, c_in, h, w) -> (b, c_out, h/s, w/s).

    depthwise: each channel by itself, c_in = c_out.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, depthwise: bool = False
    ) -> None:
        conv = (
            Depthwise(c_out, kernel, stride)
            if depthwise
            else convolution(c_in, c_out, kernel, stride)
        )
        super().__init__(conv, nn.BatchNorm2d(c_out))


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; plus the input where the shape stays.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int, kernel: int) -> None:
        super().__init__()
        hidden = expansion * c_in
        self.residual = stride == 1 and c_in == c_out
        self.body = nn.Sequential(
            ConvBN(c_in, hidden, kernel=1),
            nn.ReLU(inplace=True),
            ConvBN(hidden, hidden, kernel, stride, depthwise=True),
            nn.ReLU(inplace=True),
            ConvBN(hidden, c_out, kernel=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def layer(op: int, c_in: int, c_out: int, stride: int) -> nn.Module:
    """The layer of an operation; where the shape changes the identity is a 1x1 convolution."""
    if op:
        return InvertedResidual(c_in, c_out, stride, EXPANSION[op], KERNEL[op])
    return ConvBN(c_in, c_out, kernel=1, stride=stride) if stride > 1 else nn.Identity()


class Network(nn.Sequential):
    """Stem, eight layers in three stages, head.

    (b, in_channels, h, w) images -> (b, num_classes) logits; the stages halve h and w.
    """

    def __init__(self, arch: Sequence[int], num_classes: int, in_channels: int) -> None:
        shapes = list(layers())
        super().__init__(
            ConvBN(in_channels, STEM, kernel=3),
            nn.ReLU(inplace=True),
            *(layer(op, *shape[:3]) for op, shape in zip(arch, shapes, strict=True)),
            ConvBN(shapes[-1][1], HEAD, kernel=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(HEAD, num_classes),
        )
