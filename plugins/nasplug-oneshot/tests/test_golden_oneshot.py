"""The first steps of ProxylessNAS and SPOS, against the papers' formulas written out in float64,
network and optimisers too: of nasplug there are only the batches and the random draws."""

import pytest

torch = pytest.importorskip("torch")

from nasplug_oneshot.proxyless import Proxyless  # noqa: E402
from nasplug_oneshot.spos import SPOS  # noqa: E402
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


# ---- what both methods draw: taken from what the network is set to


def watch(method):
    """The mixtures that the network is set to from now on: a list of (weights, mask)."""
    seen, mix = [], method.net.mix

    def recorded(weights, mask, gates=None):
        seen.append((weights.detach(), torch.from_numpy(mask)))
        mix(weights, mask, gates)

    method.net.mix = recorded
    return seen


def path_loss(w, batch, path):
    x, y = batch
    return cross_entropy(logits(w, x, lambda i, x, ops: ops(x)[path[i]]), y)


def paths_of(mask):
    """The one operation of each edge."""
    assert mask.sum(1).tolist() == [1] * 6
    return mask.int().argmax(1).tolist()


# ---- ProxylessNAS (Cai, Zhu and Han, ICLR 2019)


def gated_loss(w, batch, pairs, gates):
    def edge(i, x, ops):
        return sum(g * ops(x)[k] for g, k in zip(gates[i], pairs[i], strict=True))

    x, y = batch
    return cross_entropy(logits(w, x, edge), y)


def test_proxyless():
    method = Proxyless(epochs=EPOCHS, batch=8, arch_lr=0.01, lr=0.025, every=1)
    search = begin(method)
    seen = watch(method)
    weights, architecture = SGD(method.net), Adam(method.alpha, beta=0, decay=0)
    for i, (train, val) in enumerate(zip(method.train, method.val, strict=True)):
        seen.clear()
        method.evaluate(search, search.region)
        (gates, mask), (_, path) = seen
        alpha = architecture.p.detach()
        assert mask.sum(1).tolist() == [2] * 6
        # The two that were drawn on each edge, the open one first.
        pairs = gates.masked_fill(~mask, -1).argsort(1, descending=True)[:, :2].tolist()
        binary = torch.tensor([[1.0, 0.0]] * 6, dtype=torch.float64, requires_grad=True)
        close(torch.stack([gates[e, pair] for e, pair in enumerate(pairs)]), binary)
        (by_gate,) = torch.autograd.grad(gated_loss(weights.w, val, pairs, binary), binary)
        g = torch.zeros(6, 5, dtype=torch.float64)
        for e, pair in enumerate(pairs):
            p = alpha[e, pair].exp() / alpha[e, pair].exp().sum()  # of the two that were drawn
            for a, k in enumerate(pair):
                g[e, k] = sum(
                    by_gate[e, b] * p[b] * (float(a == b) - p[a]) for b in range(2)
                )  # eq. 4
        close(method.alpha.grad, g)
        architecture.step(g, 0.01)
        for e, pair in enumerate(pairs):  # their probability together stays (section 3.2)
            now = architecture.p.data[e, pair]
            architecture.p.data[e, pair] -= (now.exp().sum() / alpha[e, pair].exp().sum()).log()
        weights.step(path_loss(weights.w, train, paths_of(path)), cosine(i, 0.025, EPOCHS))
        close(method.alpha, architecture.p)
        all_close(method.net, weights.w)


# ---- SPOS (Guo et al., ECCV 2020), and FairNAS (Chu et al., ICCV 2021)


@pytest.mark.parametrize(("sampling", "n"), [("uniform", 1), ("fair", 5)])
def test_spos(sampling, n):
    method = SPOS(sampling=sampling, epochs=EPOCHS, batch=8)
    search = begin(method)
    seen = watch(method)
    weights, drawn = SGD(method.net), set()
    for i, train in enumerate(method.train):
        seen.clear()
        method.evaluate(search, search.region)
        paths = [paths_of(mask) for _, mask in seen]
        assert len(paths) == n
        for mixing, mask in seen:
            assert (mixing[mask] == 1).all()
        if sampling == "fair":  # every operation of every edge once in a step
            assert all(sorted(ops) == [0, 1, 2, 3, 4] for ops in zip(*paths, strict=True))
        loss = sum(path_loss(weights.w, train, path) for path in paths)
        weights.step(loss, cosine(i, 0.1, EPOCHS))
        all_close(method.net, weights.w)
        drawn |= set(map(tuple, paths))
    assert len(drawn) == n * EPOCHS * EPOCH
