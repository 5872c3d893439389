"""The first steps of DDSAS, against the papers' formulas written out in float64,
network and optimisers too: of nasplug there are only the batches and the random draws."""

import math

import pytest

torch = pytest.importorskip("torch")

from nasplug_ddsas.method import DDSAS  # noqa: E402
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

EPOCHS = 4


# ---- DDSAS (Yang et al., ACML 2021), Algorithm 1

L, M = 16, 2


def top_l(zeta, t, T):
    """The L operations of the highest UCB (eq. 4 and 5), one that is not zero on every edge."""

    def confidence(op):
        p = 1 / (1 + math.exp(-float(zeta[op])))
        return (0, p + math.sqrt(2 * math.log(T) / t[op])) if t[op] else (1, p)  # 1/0: first

    every = [(i, k) for i in range(6) for k in range(5)]
    Z = {max(((i, k) for k in range(1, 5)), key=confidence) for i in range(6)}
    for op in sorted(every, key=confidence, reverse=True):
        if len(Z) < L:
            Z.add(op)
    return Z


def test_ddsas():
    """An operation that has learned and is outside of the subspace has gradients of zero, and moves
    by decay and momentum; so do its ζ and α."""
    method = DDSAS(L=L, M=M, epochs=EPOCHS, batch=8, arch_lr=0.01)
    search = begin(method)
    weights, zeta, alpha = SGD(method.net, coasts=True), Adam(method.zeta), Adam(method.alpha)
    t, T = {(i, k): 0 for i in range(6) for k in range(5)}, 0
    evidence = {op: [] for op in t}  # p q of each subspace that had the operation

    def joint(i):
        """{k: p_k q_k} of an edge   (eq. 5 and 8)."""
        there = [k for k in range(5) if (i, k) in Z]
        total = sum(alpha.p[i, k].exp() for k in there)
        return {k: 1 / (1 + (-zeta.p[i, k]).exp()) * alpha.p[i, k].exp() / total for k in there}

    def loss(batch):
        def edge(i, x, ops):
            pq, o = joint(i), ops(x)
            return sum(pq[k] / sum(pq.values()) * o[k] for k in pq)  # eq. 7

        x, y = batch
        return cross_entropy(logits(weights.w, x, edge), y)

    subspaces = set()
    for i, (train, val) in enumerate(zip(method.train, method.val, strict=True)):
        if i % M == 0:
            Z = top_l(zeta.p.detach(), t, T)  # lines 3 and 4
            for op in Z:
                t[op] += 1  # line 5
            T += 1  # line 6
            subspaces.add(frozenset(Z))
        g_zeta, g_alpha = torch.autograd.grad(loss(val), [zeta.p, alpha.p])
        zeta.step(g_zeta, 0.01)  # line 8
        alpha.step(g_alpha, 0.01)
        weights.step(loss(train), cosine(i, 0.025, EPOCHS))  # line 9
        if (i + 1) % M == 0:  # lines 11 and 12
            for e in range(6):
                for k, value in joint(e).items():
                    evidence[e, k].append(float(value.detach()))

        region = method.sample_space(search)
        method.evaluate(search, region)
        assert set(zip(*(a.tolist() for a in method.Z.nonzero()), strict=True)) == Z
        close(method.zeta, zeta.p)
        close(method.alpha, alpha.p)
        all_close(method.net, weights.w)
        means = [sum(evidence[op]) / max(len(evidence[op]), 1) for op in t]  # eq. 12
        close(torch.from_numpy(method.saliency).flatten(), torch.tensor(means, dtype=torch.float64))
    assert len(subspaces) == T == EPOCHS * EPOCH / M
    best = [max(range(1, 5), key=lambda k: means[5 * e + k]) for e in range(6)]  # line 15
    assert method.selected().tolist() == best
