"""The first steps of DARTS, GDAS and PC-DARTS, against the papers' formulas written out in float64,
network and optimisers too: of nasplug there are only the batches and the random draws."""

import math

import pytest

import nasplug
from nasplug.kernel.search import Search

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from nasplug.nn import Images  # noqa: E402
from nasplug_darts.darts import Darts  # noqa: E402
from nasplug_darts.gdas import GDAS  # noqa: E402
from nasplug_darts.pc_darts import PCDarts  # noqa: E402

EPOCHS, EPOCH = 3, 2  # and steps in each


# ---- the method under test, in float64


def begin(method):
    """A search by a network of three tiny cells on random images, stopped before its first step."""
    generator = torch.Generator().manual_seed(0)
    train, val = (
        (torch.randn(8 * EPOCH, 1, 8, 8, generator=generator), torch.arange(8 * EPOCH) % 3)
        for _ in range(2)
    )
    images = Images(train, val, val, 3, torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    problem = nasplug.Problem.of(space=nasplug.space("nb201:C=2,N=1"), data=images)
    search = Search(problem, method, budget=EPOCHS)
    method.net.double()
    method.net.network[-1].weight.data *= 10  # gradients long enough to be clipped
    for p in method.bilevel.parameters:
        p.data = 1000 * p.data.double()  # far from uniform
    method.train, method.val = (
        [(x.double(), y) for x, y in (stream[i] for i in range(EPOCHS * EPOCH))]
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


def cosine(step, lr):
    """From lr to 0.001, an epoch at a time."""
    return 0.001 + (lr - 0.001) * (1 + math.cos(math.pi * (step // EPOCH) / EPOCHS)) / 2


class SGD:
    """Gradients clipped to a norm of 5 (to which torch adds 1e-6), momentum, weight decay."""

    def __init__(self, net):
        self.w = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
        self.velocity, self.clipped = {}, 0

    def step(self, loss, lr):
        """What took no part in the loss stays as it is."""
        gradients = torch.autograd.grad(loss, [*self.w.values()], allow_unused=True)
        took = {n: g for n, g in zip(self.w, gradients, strict=True) if g is not None}
        length = sum(float((g**2).sum()) for g in took.values()) ** 0.5
        self.clipped += length > 5
        for name, g in took.items():
            g = g * min(1, 5 / (length + 1e-6)) + 3e-4 * self.w[name].detach()
            self.velocity[name] = 0.9 * self.velocity.get(name, 0) + g
            moved = self.w[name].detach() - lr * self.velocity[name]
            self.w[name] = moved.requires_grad_()


class Adam:
    """Kingma and Ba, ICLR 2015, Algorithm 1, with betas (0.5, 0.999) and weight decay 1e-3."""

    def __init__(self, p):
        self.p = p.detach().clone().requires_grad_()
        self.m = self.v = torch.zeros_like(self.p)
        self.t = 0

    def step(self, g, lr):
        self.t += 1
        g = g + 1e-3 * self.p.detach()
        self.m, self.v = 0.5 * self.m + 0.5 * g, 0.999 * self.v + 0.001 * g**2
        m, v = self.m / (1 - 0.5**self.t), self.v / (1 - 0.999**self.t)
        self.p = (self.p.detach() - lr * m / (v.sqrt() + 1e-8)).requires_grad_()


# ---- DARTS (Liu, Simonyan and Yang, ICLR 2019)


def darts_loss(w, alpha, batch):
    def edge(i, x, ops):
        power = alpha[i].exp()
        return sum(p * o for p, o in zip(power / power.sum(), ops(x), strict=True))  # eq. 2

    x, y = batch
    return cross_entropy(logits(w, x, edge), y)


def unrolled(w, velocity, alpha, xi, val, train):
    """∇α L_val(w', α) - ξ (∇α L_train(w+, α) - ∇α L_train(w-, α)) / 2ε   (eq. 7 and 8)."""
    down = torch.autograd.grad(darts_loss(w, alpha, train), [*w.values()])
    ahead = {
        n: (p - xi * (g + 3e-4 * p + 0.9 * velocity.get(n, 0))).detach().requires_grad_()
        for (n, p), g in zip(w.items(), down, strict=True)
    }
    first, *v = torch.autograd.grad(darts_loss(ahead, alpha, val), [alpha, *ahead.values()])
    epsilon = 0.01 / sum(float((g**2).sum()) for g in v) ** 0.5
    plus, minus = (
        torch.autograd.grad(
            darts_loss(
                {n: p + e * g for (n, p), g in zip(w.items(), v, strict=True)}, alpha, train
            ),
            alpha,
        )[0]
        for e in (epsilon, -epsilon)
    )
    return first - xi * (plus - minus) / (2 * epsilon)


@pytest.mark.parametrize("order", [1, 2])
def test_darts(order):
    method = Darts(order=order, epochs=EPOCHS, batch=8, arch_lr=0.01)
    search = begin(method)
    weights, architecture = SGD(method.net), Adam(method.alpha)
    for i, (train, val) in enumerate(zip(method.train, method.val, strict=True)):
        w, alpha, lr = weights.w, architecture.p, cosine(i, 0.025)
        if order == 1:
            (g,) = torch.autograd.grad(darts_loss(w, alpha, val), alpha)
        else:
            g = unrolled(w, weights.velocity, alpha, lr, val, train)
        architecture.step(g, 0.01)
        weights.step(darts_loss(w, architecture.p, train), lr)
        method.evaluate(search, search.region)
        close(method.alpha.grad, g)
        close(method.alpha, architecture.p)
        all_close(method.net, weights.w)
    assert weights.clipped


# ---- GDAS (Dong and Yang, CVPR 2019)


def test_gdas(monkeypatch):
    """Given the uniform numbers drawn, one set to learn α and another to learn w."""
    method = GDAS(epochs=EPOCHS, batch=8, arch_lr=0.01)
    search = begin(method)
    weights, architecture = SGD(method.net), Adam(method.alpha)
    drawn, rand = [], torch.rand
    monkeypatch.setattr(torch, "rand", lambda *a, **k: drawn.append(rand(*a, **k)) or drawn[-1])

    def chosen(uniform, step):
        """h̃ and its argmax   (eq. 6), τ from 10 down to 0.1."""
        alpha = architecture.p.detach()
        tau = 10 - 9.9 * min(1, step / EPOCH / (EPOCHS - 1))
        log_p = alpha - alpha.exp().sum(1, keepdim=True).log()
        power = ((log_p - (-uniform.log()).log()) / tau).exp()
        soft = power / power.sum(1, keepdim=True)
        return soft, soft.argmax(1).tolist(), tau

    def loss(batch, ks, h):
        x, y = batch
        return cross_entropy(logits(weights.w, x, lambda i, x, ops: h[i] * ops(x)[ks[i]]), y)

    paths = set()
    for i, (train, val) in enumerate(zip(method.train, method.val, strict=True)):
        drawn.clear()
        method.evaluate(search, search.region)
        for_alpha, for_w = drawn
        soft, ks, tau = chosen(for_alpha, i)
        h = torch.ones(6, dtype=torch.float64, requires_grad=True)
        (by_h,) = torch.autograd.grad(loss(val, ks, h), h)
        # Forward by the argmax, back by its h̃ (eq. 7): ∂h̃_k/∂α_j = h̃_k (δ_kj - h̃_j) / τ.
        g = torch.stack(
            [
                by_h[e] * soft[e, k] * ((torch.arange(5) == k).double() - soft[e]) / tau
                for e, k in enumerate(ks)
            ]
        )
        close(method.alpha.grad, g)
        architecture.step(g, 0.01)
        _, ks, _ = chosen(for_w, i)
        weights.step(loss(train, ks, torch.ones(6, dtype=torch.float64)), cosine(i, 0.025))
        close(method.alpha, architecture.p)
        all_close(method.net, weights.w)
        paths.add(tuple(ks))
    assert len(paths) > 1


# ---- PC-DARTS (Xu et al., ICLR 2020)


def test_pc_darts():
    K, nodes = 2, [[0], [1, 2], [3, 4, 5]]  # the edges that enter each node
    method = PCDarts(K=K, warmup=1, epochs=EPOCHS, batch=8, arch_lr=0.01)
    search = begin(method)
    weights = SGD(method.net)
    alpha, beta = Adam(method.alpha), Adam(method.beta)

    def loss(batch):
        def edge(i, x, ops):
            c = x.shape[1] // K
            power = alpha.p[i].exp()
            mixed = sum(p * o for p, o in zip(power / power.sum(), ops(x[:, :c]), strict=True))
            passed = torch.cat([mixed, x[:, c:]], 1)  # eq. 2
            shuffled = passed[:, [part * c + n for n in range(c) for part in range(K)]]
            (siblings,) = (edges for edges in nodes if i in edges)
            return beta.p[i].exp() / beta.p[siblings].exp().sum() * shuffled  # eq. 3

        x, y = batch
        return cross_entropy(logits(weights.w, x, edge), y)

    for i, (train, val) in enumerate(zip(method.train, method.val, strict=True)):
        if i >= EPOCH:  # the first epoch trains weights alone
            by_alpha, by_beta = torch.autograd.grad(loss(val), [alpha.p, beta.p])
            alpha.step(by_alpha, 0.01)
            beta.step(by_beta, 0.01)
        weights.step(loss(train), cosine(i, 0.1))
        method.evaluate(search, search.region)
        close(method.alpha, alpha.p)
        close(method.beta, beta.p)
        all_close(method.net, weights.w)
    assert beta.t == (EPOCHS - 1) * EPOCH
