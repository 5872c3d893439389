"""Convolutions that are fast on a CPU: values and gradients are torch's own."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from nasplug.nn.convolution import AvgPool, Depthwise, Pointwise  # noqa: E402


def same(ours: nn.Module, plain: nn.Module, c: int = 4, h: int = 8, w: int = 12) -> None:
    """Values and all gradients, in float64."""
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(40, c, h, w, dtype=torch.float64)
    found = []
    for module in (ours.double(), plain.double()):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        (y * torch.cos(torch.arange(y.numel())).view_as(y)).sum().backward()
        found.append((y, leaf.grad, *(p.grad for p in module.parameters())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 12), (5, 3), (2, 1)])
def test_depthwise(kernel: int, dilation: int, stride: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    padding = dilation * (kernel // 2)
    plain = nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups=4, bias=False)
    same(Depthwise(4, kernel, stride, dilation), plain, 4, *size)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 12), (5, 3), (2, 1)])
def test_avg_pool(stride: int, size: tuple[int, int]) -> None:
    """In float64 the shares of the neighbors had float32's digits."""
    torch.manual_seed(0)
    same(AvgPool(stride), nn.AvgPool2d(3, stride, 1, count_include_pad=False), 4, *size)


def test_pointwise() -> None:
    torch.manual_seed(0)
    same(Pointwise(4, 6), nn.Conv2d(4, 6, 1, bias=False))


@pytest.mark.parametrize("side", [3, 9])
def test_has_second_derivatives(side: int) -> None:
    torch.manual_seed(0)
    conv = Depthwise(2, 5, dilation=2).double()
    x = torch.randn(2, 2, side, side, dtype=torch.float64, requires_grad=True)

    def of(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(of, (x, conv.weight))
    assert torch.autograd.gradgradcheck(of, (x, conv.weight), fast_mode=True)


def test_fast_gradients_are_for_what_is_slow() -> None:
    """3x3 without dilation and strided ones stay torch's; the others do not."""
    assert [Depthwise(2, *how).slow for how in ((3,), (3, 2), (5, 2), (5,), (3, 1, 2))] == [
        False, False, False, True, True,
    ]  # fmt: skip


def test_a_frozen_weight_gets_no_gradient() -> None:
    conv = Depthwise(2, 5)
    conv.weight.requires_grad_(False)
    x = torch.randn(1, 2, 6, 6, requires_grad=True)
    conv(x).sum().backward()
    assert conv.weight.grad is None
    assert x.grad is not None


def network() -> nn.Sequential:
    return nn.Sequential(Pointwise(2, 4), Depthwise(4, 5), AvgPool(), Depthwise(4, 3, 2)).eval()


def test_may_train_after_inference() -> None:
    """What the first call keeps is made in inference mode, and used in training."""
    net, x = network(), torch.randn(50, 2, 7, 5)  # a size of its own
    with torch.inference_mode():
        net(x)
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.filterwarnings("ignore:.*jit.*deprecated:FutureWarning")
def test_can_be_traced_and_exported() -> None:
    """For any number of images, of which few and many take different ways here."""
    net, x = network(), torch.randn(50, 2, 8, 8)
    traced = torch.jit.trace(net, x)
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for images in (x, x[:3]):
        torch.testing.assert_close(traced(images), net(images))
        torch.testing.assert_close(exported.module()(images), net(images))
