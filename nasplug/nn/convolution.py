"""Convolutions and pools that are fast on a CPU too; elsewhere they are torch's own.

On a GPU, and where a network is traced, exported or compiled, which wants the plain operations.

Ratios below are to the time of torch's own operation, forward and backward together, on one thread
with torch 2.15: the DARTS supernet's shapes, in batches of 16 and 64 images.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

TINY = 16  # pixels, below which oneDNN's 1x1 convolution is the faster one
SMALL = 64  # pixels, up to which a depthwise convolution is a matrix product


def fast(x: Tensor) -> bool:
    """Whether what this module does instead of torch's operations is worth it."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return x.device.type == "cpu" and not traced


def convolution(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """(b, c_in, h, w) -> (b, c_out, h/stride, w/stride): "same" padding, no bias."""
    if kernel == stride == 1:
        return Pointwise(c_in, c_out)
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)


class Pointwise(nn.Conv2d):
    """(b, c_in, h, w) -> (b, c_out, h, w): a 1x1 convolution without bias.

    As a matrix product per image; oneDNN reorders images of few channels before and after it,
    which takes longer than the product, unless images are tiny.

    0.66 to 0.71 of torch's time for 16 channels of 32x32, 0.5 to 0.7 for 16x16, 0.4 to 0.7 for 8x8.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if not fast(x) or x.shape[2:].numel() < TINY:
            return super().forward(x)
        weight = self.weight.flatten(1).expand(len(x), -1, -1)
        return torch.bmm(weight, x.flatten(2)).view(len(x), -1, *x.shape[2:])


class Depthwise(nn.Conv2d):
    """(b, c, h, w) -> (b, c, h/stride, w/stride): each channel by itself, "same" padding, no bias.

    oneDNN has no good backward pass for kernels beyond 3x3 or dilated ones: it takes up to 20
    times as long as the forward pass, and is most of what DARTS's operations cost on a CPU.
    `Same` does it by a convolution and a matrix product. Small images take as long as the calls
    do: `product` does all of it at once.

    `Same`: 0.25 to 0.55 of torch's time for 16 channels of 32x32 and 16x16, and about as long as
    torch (0.9 to 1.25) for 16 images of 8x8, the one size at which it is no gain.
    `product`, batches of 32 to 128, 16 channels: 0.13 to 0.4 for 8x8, 0.1 to 0.25 for 4x4 and 2x2;
    of plain 3x3 kernels 0.6 to 1.3, 0.45 to 0.7 and 0.2 to 0.4.
    """

    def __init__(self, c: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(c, c, kernel, stride, padding, dilation, groups=c, bias=False)
        self.slow = stride == 1 and (kernel > 3 or dilation > 1)

    def forward(self, x: Tensor) -> Tensor:
        if not fast(x):
            return super().forward(x)
        # Not where the matrices would be many times the images.
        if x.shape[2:].numel() <= min(SMALL, 2 * len(x)):
            return product(x, self.weight, self.stride[0], self.dilation[0])
        if self.slow and torch.is_grad_enabled():
            return Same.apply(x, self.weight, self.dilation[0])  # type: ignore[no-untyped-call]
        return super().forward(x)


def product(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """A depthwise convolution as a product of (c, b, h w) images with (c, h w, h' w') matrices."""
    b, c, h, w = x.shape
    shifts = offsets(h, w, weight.shape[2], stride, dilation).to(weight.dtype)
    matrices = (weight.flatten(1) @ shifts).view(c, h * w, -1)
    y = torch.bmm(x.flatten(2).transpose(0, 1), matrices).transpose(0, 1)
    return y.reshape(b, c, (h - 1) // stride + 1, (w - 1) // stride + 1)


@cache
@torch.inference_mode(mode=False)  # what is kept must do for training too
def offsets(h: int, w: int, kernel: int, stride: int, dilation: int) -> Tensor:
    """(kernel^2, h w h' w'): 1 where an element of the kernel takes an input to an output."""
    padding = dilation * (kernel // 2)
    pixels = torch.eye(h * w).view(h * w, 1, h, w)
    windows = functional.unfold(pixels, kernel, dilation, padding, stride)
    return windows.transpose(0, 1).flatten(1).contiguous()


class Same(torch.autograd.Function):
    """y[w] = sum over j of weight[j] x[w + dilation (j - kernel // 2)], likewise in h."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return convolve(x, weight, dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        of_x, of_weight, _ = ctx.needs_input_grad
        return (
            convolve(gradient, weight.flip(2, 3), ctx.dilation) if of_x else None,
            correlate(x, gradient, weight.shape[2], ctx.dilation) if of_weight else None,
            None,
        )


def convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    padding = dilation * (weight.shape[2] // 2)
    return functional.conv2d(x, weight, None, 1, padding, dilation, groups=len(weight))


def correlate(x: Tensor, gradient: Tensor, kernel: int, dilation: int) -> Tensor:
    """The weight's gradient (c, 1, kernel, kernel): products of x and the gradient at each offset.

    A matrix product per row of the kernel has the products of all pairs of columns; those of an
    offset are a diagonal of it.
    """
    _, c, h, w = x.shape
    padding = dilation * (kernel // 2)
    padded = functional.pad(x, [padding] * 4).transpose(0, 1).contiguous()
    columns = gradient.transpose(0, 1).reshape(c, -1, w)
    rows = []
    for i in range(0, kernel * dilation, dilation):
        pairs = padded[:, :, i : i + h].reshape(c, -1, w + 2 * padding).mT @ columns
        strides = pairs.stride(0), dilation * w, w + 1  # from one diagonal to the next, along it
        rows.append(pairs.as_strided((c, kernel, w), strides).sum(-1))
    return torch.stack(rows, dim=1)[:, None]


class AvgPool(nn.AvgPool2d):
    """(b, c, h, w) -> (b, c, h/stride, w/stride): means of 3x3 pixels, of fewer at the border.

    A product with a matrix on either side. 0.2 to 0.3 of torch's time for 16 channels of 32x32 and
    16x16, 0.5 to 0.8 for 8x8; with stride 2, 0.5 for 32x32 and 0.8 to 0.9 for 16x16.
    """

    def __init__(self, stride: int = 1) -> None:
        super().__init__(3, stride, padding=1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        if not fast(x):
            return super().forward(x)
        rows, columns = (means(n, self.stride, x.dtype) for n in x.shape[2:])
        return rows.T @ (x @ columns)


@cache
@torch.inference_mode(mode=False)
def means(n: int, stride: int, dtype: torch.dtype) -> Tensor:
    """(n, n/stride): a column holds the shares of an output's three neighbors."""
    centers = torch.arange(0, n, stride)
    near = ((torch.arange(n)[:, None] - centers).abs() <= 1).to(dtype)
    return near / near.sum(0)
