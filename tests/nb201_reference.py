"""NAS-Bench-201's network, its loss and the optimisers of supernets, written out in float64: what
the first steps of methods are compared with (test_golden_*.py of the plugins)."""

import math

import torch
from torch.nn import functional

import nasplug
from nasplug.kernel.search import Search
from nasplug.nn import Images

EPOCH = 2  # steps in an epoch


# ---- the method under test, in float64


def begin(method):
    """A search by a network of three tiny cells on random images, stopped before its first step."""
    epochs = method.epochs
    generator = torch.Generator().manual_seed(0)
    train, val = (
        (torch.randn(8 * EPOCH, 1, 8, 8, generator=generator), torch.arange(8 * EPOCH) % 3)
        for _ in range(2)
    )
    images = Images(train, val, val, 3, torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    problem = nasplug.Problem.of(space=nasplug.space("nb201:C=2,N=1"), data=images)
    search = Search(problem, method, budget=epochs)
    method.net.double()
    method.net.network[-1].weight.data *= 10  # gradients long enough to be clipped
    for p in method.bilevel.parameters:
        p.data = 1000 * p.data.double()  # far from uniform
    method.train, method.val = (
        [(x.double(), y) for x, y in (stream[i] for i in range(epochs * EPOCH))]
        for stream in (method.train, method.val)
    )
    method.round_steps = lambda: 1
    method.finish_epoch = lambda search: None  # which would score an arch in float32
    return search


def close(ours, reference):
    torch.testing.assert_close(ours.detach(), reference.detach(), rtol=0, atol=1e-9)


def all_close(net, w):
    assert dict(net.named_parameters()).keys() == w.keys()
    for name, p in net.named_parameters():
        close(p, w[name])


# ---- the reference: NAS-Bench-201's network, one cell a stage (Dong and Yang, ICLR 2020)


def norm(x, weight=None, bias=None):
    mean = x.mean((0, 2, 3), keepdim=True)
    x = (x - mean) / (((x - mean) ** 2).mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    return x if weight is None else weight[:, None, None] * x + bias[:, None, None]


def relu_conv_norm(w, name, x, stride=1):
    kernel = w[f"{name}.1.weight"]
    y = functional.conv2d(x.relu(), kernel, None, stride, kernel.shape[-1] // 2)
    return norm(y, w.get(f"{name}.2.weight"), w.get(f"{name}.2.bias"))


def operations(w, name, x):
    """none, skip, 1x1, 3x3, average pool."""
    convolved = [relu_conv_norm(w, f"{name}.{k}", x) for k in (2, 3)]
    pooled = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return [torch.zeros_like(x), x, *convolved, pooled]


def logits(w, x, edge):
    """edge(i, x, operations of x) is what passes edge i."""

    def cell(at, x):
        def e(i, x):
            return edge(i, x, lambda part: operations(w, f"network.{at}.ops.{i}.ops", part))

        one = e(0, x)
        two = e(1, x) + e(2, one)
        return e(3, x) + e(4, one) + e(5, two)

    def reduction(at, x):
        short = functional.conv2d(functional.avg_pool2d(x, 2), w[f"network.{at}.shortcut.1.weight"])
        half = relu_conv_norm(w, f"network.{at}.body.0", x, stride=2)
        return short + relu_conv_norm(w, f"network.{at}.body.1", half)

    x = functional.conv2d(x, w["network.0.0.weight"], padding=1)
    x = cell(1, norm(x, w["network.0.1.weight"], w["network.0.1.bias"]))
    x = cell(5, reduction(4, cell(3, reduction(2, x))))
    x = norm(x, w["network.6.weight"], w["network.6.bias"]).relu().mean((2, 3))
    return x @ w["network.10.weight"].T + w["network.10.bias"]


def cross_entropy(z, y):
    return (z.exp().sum(1).log() - z[torch.arange(len(y)), y]).mean()


# ---- the reference: optimisers


def cosine(step, lr, epochs):
    """From lr to 0.001, an epoch at a time."""
    return 0.001 + (lr - 0.001) * (1 + math.cos(math.pi * (step // EPOCH) / epochs)) / 2


class SGD:
    """Gradients clipped to a norm of 5 (to which torch adds 1e-6), momentum, weight decay."""

    def __init__(self, net, coasts=False):
        self.coasts = coasts
        self.w = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
        self.velocity, self.clipped = {}, 0

    def step(self, loss, lr):
        """What took no part in the loss stays as it is, or goes on by its momentum and decay."""
        gradients = torch.autograd.grad(loss, [*self.w.values()], allow_unused=True)
        took = {n: g for n, g in zip(self.w, gradients, strict=True) if g is not None}
        if self.coasts:  # what has learned before
            took = {n: torch.zeros_like(self.w[n]) for n in self.velocity} | took
        length = sum(float((g**2).sum()) for g in took.values()) ** 0.5
        self.clipped += length > 5
        for name, g in took.items():
            g = g * min(1, 5 / (length + 1e-6)) + 3e-4 * self.w[name].detach()
            self.velocity[name] = 0.9 * self.velocity.get(name, 0) + g
            moved = self.w[name].detach() - lr * self.velocity[name]
            self.w[name] = moved.requires_grad_()


class Adam:
    """Kingma and Ba, ICLR 2015, Algorithm 1, with betas (beta, 0.999) and weight decay."""

    def __init__(self, p, beta=0.5, decay=1e-3):
        self.beta, self.decay = beta, decay
        self.p = p.detach().clone().requires_grad_()
        self.m = self.v = torch.zeros_like(self.p)
        self.t = 0

    def step(self, g, lr):
        self.t += 1
        g = g + self.decay * self.p.detach()
        self.m = self.beta * self.m + (1 - self.beta) * g
        self.v = 0.999 * self.v + 0.001 * g**2
        m, v = self.m / (1 - self.beta**self.t), self.v / (1 - 0.999**self.t)
        self.p = (self.p.detach() - lr * m / (v.sqrt() + 1e-8)).requires_grad_()
