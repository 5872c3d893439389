"""Scores of a network that has not been trained, from one batch of images. Higher is better.

Each is a function of a freshly initialised network in training mode, so that batch norms use the
statistics of the batch, of (b, c, h, w) images, of the loss of its output for them, and of a
generator of whatever is random in it. It may spoil the network: `measure` gives each a copy. What
is not finite says that the network passes nothing on.

They are defined as NAS-Bench-Suite-Zero computes them (Krishnakumar et al., NeurIPS 2022; NASLib,
branch zerocost, ``naslib/predictors/pruners/measures``), which follows "Zero-Cost Proxies for
Lightweight NAS" (Abdelfattah et al., ICLR 2021; SamsungLabs/zero-cost-nas). "Weights" are those of
convolutions and linear layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nasplug.nn import Images, Shared, Stream, Task, seeded

Loss = Callable[[Any], Tensor]  # output for the batch -> a scalar
Proxy = Callable[[nn.Module, Tensor, Loss, torch.Generator], float]

JITTER = 1e-5  # on the eigenvalues of jacov
MIXUP = 1e-2  # of zen: how far the second input is from the first
WEIGHTED = (nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
RELUS = (nn.ReLU, nn.ReLU6)
CLASSES = Task()  # cross-entropy


def naswot(net: nn.Module, batch: Tensor, loss: Loss, generator: torch.Generator) -> float:
    r"""How differently the images of a batch switch the ReLUs: log det of the kernel

    .. math:: K_{ij} = N - d_H(c_i, c_j)

    of the Hamming distances of their binary codes c, N ReLUs in all. A ReLU that several
    operations take counts once for each.

    Mellor et al., Neural Architecture Search without Training, ICML 2021, eq. 2 and 3.
    """
    kernel = torch.zeros(len(batch), len(batch), dtype=torch.float64, device=batch.device)

    def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
        on = (output.flatten(1) > 0).float()
        kernel.add_(on @ on.T + (1 - on) @ (1 - on).T)

    shared = {module.layer for module in net.modules() if isinstance(module, Shared)}
    for module in net.modules():
        layer = module.layer if isinstance(module, Shared) else module
        if isinstance(layer, RELUS) and module not in shared:
            module.register_forward_hook(add)
    with torch.no_grad():
        net(batch)
    return torch.linalg.slogdet(kernel).logabsdet.item()


def synflow(net: nn.Module, batch: Tensor, loss: Loss, generator: torch.Generator) -> float:
    r"""The log of the synaptic flow through the network: no image is looked at.

    .. math:: \log \sum_w \left| w \frac{\partial R}{\partial w} \right|

    where R is the sum of the outputs for an image of ones, all weights are made positive, and
    batch norms are left out. In float64; the log, which keeps the order, as sums reach 1e40.

    Tanaka et al., Pruning Neural Networks without any Data by Iteratively Conserving Synaptic
    Flow, NeurIPS 2020, eq. 2 and algorithm 1.
    """
    net = net.double().eval()
    for module in net.modules():
        if isinstance(module, NORMS):
            module.forward = _same  # type: ignore[method-assign]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.abs_()
    flow = net(torch.ones_like(batch[:1], dtype=torch.float64)).sum()
    return _total((weight * g).abs().sum() for weight, g in _gradients(net, flow)).log().item()


def jacov(net: nn.Module, batch: Tensor, loss: Loss, generator: torch.Generator) -> float:
    r"""How differently the network reacts to small changes of different images.

    .. math:: -\sum_i \log(\lambda_i + k) + \frac{1}{\lambda_i + k}

    with the eigenvalues of the correlation matrix of the images' Jacobians (of the sum of the
    outputs), and k = 1e-5.

    Mellor et al., Neural Architecture Search without Training, first version (arXiv 2006.04647v1),
    eq. 3.
    """
    x = batch.clone().requires_grad_()
    (jacobian,) = torch.autograd.grad(net(x).sum(), x, allow_unused=True)
    if jacobian is None:  # the network passes nothing on
        return float("nan")
    correlation = torch.corrcoef(jacobian.flatten(1).double())
    if not correlation.isfinite().all():  # an image that changes nothing
        return float("nan")
    values = torch.linalg.eigvalsh(correlation) + JITTER
    return -(values.log() + 1 / values).sum().item()


def snip(net: nn.Module, batch: Tensor, loss: Loss, generator: torch.Generator) -> float:
    r"""How much the loss depends on each weight being there: :math:`\sum_w |w\, \partial L /
    \partial w|`.

    Lee et al., SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019, eq. 4
    (here not divided by the sum).
    """
    pairs = _gradients(net, loss(net(batch)))
    return _total((weight * g).abs().sum() for weight, g in pairs).item()


def grasp(net: nn.Module, batch: Tensor, loss: Loss, generator: torch.Generator) -> float:
    r"""How much the weights help the gradient: :math:`-\sum_w w\, (H g)_w`, H the Hessian of the
    loss and g its gradient.

    Wang et al., Picking Winning Tickets Before Training by Preserving Gradient Flow, ICLR 2020,
    eq. 8. The sign is that of Abdelfattah et al.
    """
    pairs = _gradients(net, loss(net(batch)), create_graph=True)
    product = _total((g.detach() * g).sum() for _, g in pairs)  # whose gradient is H g
    return -_total((weight * h).sum() for weight, h in _gradients(net, product)).item()


def fisher(net: nn.Module, batch: Tensor, loss: Loss, generator: torch.Generator) -> float:
    r"""How much the loss depends on each channel being there.

    .. math:: \sum_c \frac{n_c}{2b} \sum_{i=1}^{b} \Big( \sum_{h, w} a_{ichw}
              \frac{\partial L}{\partial a_{ichw}} \Big)^2

    over the outputs a of the weighted layers, channel by channel. n is the number of weights that
    make a channel: the reference code gives each of them the channel's value, and adds up.

    Turner et al., BlockSwap: Fisher-guided Block Substitution, ICLR 2020, eq. 4.
    """
    outputs: list[tuple[int, Tensor]] = []
    for module in net.modules():
        if isinstance(module, WEIGHTED):
            module.register_forward_hook(
                lambda module, inputs, output: outputs.append((module.weight[0].numel(), output))
            )
    lost = loss(net(batch))
    gradients = torch.autograd.grad(lost, [a for _, a in outputs], allow_unused=True)
    return _total(
        n / 2 * (a * g).reshape(*a.shape[:2], -1).sum(2).square().mean(0).sum()
        for (n, a), g in zip(outputs, gradients, strict=True)
        if g is not None
    ).item()


def grad_norm(net: nn.Module, batch: Tensor, loss: Loss, generator: torch.Generator) -> float:
    """The Euclidean norms of the gradients of the loss, added up over the layers.

    Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021, section 3.2.
    """
    return _total(g.norm() for _, g in _gradients(net, loss(net(batch)))).item()


def zen(net: nn.Module, batch: Tensor, loss: Loss, generator: torch.Generator) -> float:
    r"""How much a little noise on noise changes the last feature maps: no image is looked at.

    .. math:: \log \mathbb{E}\, \lVert f(x) - f(x + \alpha \epsilon) \rVert_1
              + \sum_{\text{norms}} \log \sqrt{\bar\sigma^2}

    with f up to the global pooling, x and ε normal, α = 0.01, and all weights normal; what batch
    norms divide by is multiplied again, from their running variances, as in the authors' code.

    Lin et al., Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition, ICCV 2021,
    algorithm 1.
    """

    def normal(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator).to(batch.device)

    features: list[Tensor] = []
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, WEIGHTED):
                module.weight.copy_(normal(module.weight.shape))
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.AdaptiveAvgPool2d):
                module.register_forward_pre_hook(lambda module, x: features.append(x[0]))
        x = normal(batch.shape)
        outputs = [net(x), net(x + MIXUP * normal(batch.shape))]
        one, other = features if len(features) == 2 else outputs
        change = (one - other).abs().flatten(1).sum(1).mean().log()
        return change.item() + sum(
            module.running_var.mean().sqrt().log().item()
            for module in net.modules()
            if isinstance(module, NORMS) and module.running_var is not None
        )


def l2_norm(net: nn.Module, batch: Tensor, loss: Loss, generator: torch.Generator) -> float:
    """The Euclidean norms of the weights as initialised, added up over the layers.

    Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021 (in their code).
    """
    return _total(weight.norm() for weight in _weights(net)).item()


PROXIES: dict[str, Proxy] = {
    proxy.__name__: proxy
    for proxy in (naswot, synflow, jacov, snip, grasp, fisher, grad_norm, zen, l2_norm)
}
COUNTS = ("params", "flops")  # what a space knows of its networks: proxies that need none


def batch_of(images: Images, size: int, seed: int) -> tuple[Tensor, Any]:
    """Random training images (b, c, h, w) and their labels, as they are but normalised."""
    return Stream(replace(images, padding=0), images.train, size, seed)[0]


def measure(
    name: str, net: nn.Module, batch: Tensor, labels: Any, seed: int, task: Task = CLASSES
) -> float:
    """A proxy of a freshly initialised network, which stays as it is, by the loss of a task."""
    generator = torch.Generator().manual_seed(seed)
    copy = deepcopy(net).train()
    with seeded(seed):
        return PROXIES[name](copy, batch, lambda output: task.cost(output, labels), generator)


def _weights(net: nn.Module) -> list[Tensor]:
    return [module.weight for module in net.modules() if isinstance(module, WEIGHTED)]


def _gradients(
    net: nn.Module, of: Tensor, create_graph: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """(weight, gradient of a number) of the layers that have a share in it."""
    weights = _weights(net)
    gradients = torch.autograd.grad(of, weights, create_graph=create_graph, allow_unused=True)
    return [(w.detach(), g) for w, g in zip(weights, gradients, strict=True) if g is not None]


def _total(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


def _same(x: Tensor) -> Tensor:
    return x
