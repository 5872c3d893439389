"""Blocks that networks of several spaces are built from."""

from __future__ import annotations

from torch import Tensor, nn

from nasplug.nn.convolution import Depthwise, Pointwise, convolution
from nasplug.nn.mixed import Op


class ConvBN(Op):
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


class ConvBNReLU(nn.Sequential):
    """(b, c_in, h, w) -> (b, c_out, h/s, w/s)."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, depthwise: bool = False
    ) -> None:
        super().__init__(*ConvBN(c_in, c_out, kernel, stride, depthwise), nn.ReLU())


def project(c_in: int, c_out: int) -> Op:
    """(b, c_in, h, w) -> (b, c_out, h, w): a linear 1x1 convolution and batch norm."""
    return Op(Pointwise(c_in, c_out), nn.BatchNorm2d(c_out))


def inverted_residual(c_in: int, c_out: int, stride: int, kernel: int, expansion: int) -> Op:
    """MobileNetV2's block without its shortcut, which is `Residual`'s: 1x1, depthwise, 1x1.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
    """
    hidden = expansion * c_in
    return Op(
        ConvBNReLU(c_in, hidden, 1),
        ConvBNReLU(hidden, hidden, kernel, stride, depthwise=True),
        *project(hidden, c_out),
    )


class Residual(nn.Module):
    """x -> x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    @property
    def branches(self) -> list[nn.Module]:
        """What drop-path may drop."""
        return [self.body]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)
