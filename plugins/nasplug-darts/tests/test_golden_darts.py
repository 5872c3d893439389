"""The first steps of DARTS, GDAS and PC-DARTS, against the papers' formulas written out in float64,
network and optimisers too: of nasplug there are only the batches and the random draws."""

import pytest

torch = pytest.importorskip("torch")

from nasplug_darts.darts import Darts  # noqa: E402
from nasplug_darts.gdas import GDAS  # noqa: E402
from nasplug_darts.pc_darts import PCDarts  # noqa: E402
from tests.nb201_reference import (  # noqa: E402
    EPOCH,
    SGD,
    Adam,
    all_close,
    begin,
    close,
    cosine,
    cross_entropy,
    logits,
)

EPOCHS = 3


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
        w, alpha, lr = weights.w, architecture.p, cosine(i, 0.025, EPOCHS)
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
        weights.step(loss(train, ks, torch.ones(6, dtype=torch.float64)), cosine(i, 0.025, EPOCHS))
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
        weights.step(loss(train), cosine(i, 0.1, EPOCHS))
        method.evaluate(search, search.region)
        close(method.alpha, alpha.p)
        close(method.beta, beta.p)
        all_close(method.net, weights.w)
    assert beta.t == (EPOCHS - 1) * EPOCH
