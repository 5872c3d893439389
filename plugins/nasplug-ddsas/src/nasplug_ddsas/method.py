"""DDSAS: Algorithm 1 of "DDSAS: Dynamic and Differentiable Space-Architecture Search" (Yang et al.,
ACML 2021). Line and equation numbers are the paper's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nasplug import (
    Archs,
    Choice,
    Hyperparameter,
    Int,
    NasplugError,
    Region,
    Search,
    Space,
    hookimpl,
)
from nasplug.nn import Bools, Floats, Mixture, Oneshot

STEPS = 30  # in a subspace: the paper's M
NEVER = 1e6  # the bonus of what was never sampled: it comes first
FIRST = ("none", "skip_connect", "sep_conv_3x3", "nor_conv_3x3")  # an expanding space starts so
THEN = (
    "max_pool_3x3", "dil_conv_3x3", "avg_pool_3x3", "sep_conv_5x5", "dil_conv_5x5", "nor_conv_1x1",
)  # fmt: skip


class DDSAS(Oneshot):
    """DDSAS: gradient search in subspaces of L operations, sampled by upper confidence bound."""

    paper = "Yang et al., DDSAS: Dynamic and Differentiable Space-Architecture Search, ACML 2021"

    ablations = {  # noqa: RUF012 - read only
        "shrinking": {"mode": "shrink"},  # Table 2
        "expanding": {"mode": "expand"},  # Table 2
        "by p q now": {"criterion": "joint"},
    }

    coasts = True  # as with the authors' torch 1.4, whose zero_grad() leaves zeros

    L = Int(0, low=0, high=10_000, doc="operations in a subspace, per cell; 0: two per edge")
    M = Int(0, low=0, high=100_000, doc=f"steps in a subspace; 0: {STEPS}, an epoch at most")
    mode = Choice(
        "static", choices=("static", "shrink", "expand"), doc="what the whole space does meanwhile"
    )
    period = Int(10, low=1, high=10_000, doc="epochs between shrinkings or expansions")
    criterion = Choice(
        "saliency", choices=("saliency", "joint"),
        doc="how operations are selected: by eq. 11, or by p q as it is now",
    )  # fmt: skip

    @classmethod
    def ranges(cls, space: Space) -> dict[str, Hyperparameter[Any]]:
        """L from one operation more than a cell has edges to all; M to about an epoch or two;
        mode=expand where there are the operations that it starts from."""
        net = space.supernet()
        edges = net.groups()[0]
        ops = int(net.exists[edges].sum())
        passing = net.exists & ~net.cut
        begins = (passing & net.named(*FIRST))[passing.any(1)].any(1).all()
        return {
            "L": replace(cls.L, default=min(2 * len(edges), ops), low=len(edges) + 1, high=ops),
            "M": replace(cls.M, default=STEPS, low=1, high=1000, log=True),
            "mode": replace(
                cls.mode, choices=[one for one in cls.mode.choices if begins or one != "expand"]
            ),
        }

    def start(self, search: Search) -> list[Tensor]:
        shape = self.mask.shape
        self.groups = self.net.groups()
        edges, ops = len(self.groups[0]), int(self.net.exists[self.groups[0]].sum())
        self.size = self.L or min(2 * edges, ops)
        self.stay = self.M or min(STEPS, self.per_epoch)  # steps in a subspace
        if not edges < self.size <= ops:
            raise NasplugError(
                f"L={self.size}: a subspace has {edges + 1} operations (one more than a cell has "
                f"edges) to {ops} (all of them)"
            )
        self.region = search.region.unlimited
        self.whole: Bools = self.mask  # of the region, of which `allowed` is what is open now
        self.allowed = self.whole.copy()
        self.cut = self.net.cut
        if self.mode == "expand":
            self.allowed &= self.net.named(*FIRST)
            passing = (self.whole & ~self.cut).any(1)
            if not (self.allowed & ~self.cut)[passing].any(1).all():
                raise NasplugError(
                    f"mode=expand starts from {', '.join(FIRST)}: the region lacks them somewhere"
                )
        self.zeta, self.alpha = self.parameter(*shape), self.parameter(*shape)
        self.T = 0  # subspaces sampled
        self.t = np.zeros(shape, np.int64)  # in how many of them each operation was
        self.saliency = np.zeros(shape)
        self.Z: Bools = np.zeros(shape, bool)
        return [self.zeta, self.alpha]

    # ---- Algorithm 1

    @hookimpl
    def sample_space(self, search: Search) -> Region:
        if self.step % self.stay == 0 or not self.Z.any():
            p = self.zeta.detach().sigmoid().cpu().double().numpy()  # eq. 5
            confidence = ucb(p, self.T, self.t)  # line 3
            if self.warming:  # as the authors' code begins: any subspace, and none counts
                confidence = np.random.default_rng((self.seed, self.step)).random(p.shape)
            self.Z = sample(confidence, self.allowed, self.size, self.groups, self.cut)  # line 4
            if not self.warming:
                self.t += self.Z  # line 5
                self.T += 1  # line 6
        return self.net.region(self.Z)

    @property
    def warming(self) -> bool:
        return self.step < self.warmup * self.per_epoch

    def round_steps(self) -> int:
        return self.stay - self.step % self.stay

    def mixture(self) -> Mixture:
        joint = self.joint()
        return Mixture(joint / joint.sum(-1, keepdim=True), self.mask)  # eq. 7

    def joint(self, mask: Bools | None = None) -> Tensor:
        """(D, O): p_k q_k, zero outside of a mask, by default of the subspace that is trained."""
        q = self.masked(self.alpha, mask).softmax(-1)  # eq. 8
        return self.zeta.sigmoid() * q

    def after_step(self) -> None:
        if self.T and self.step % self.stay == 0:  # lines 11-12
            joint = self.joint().detach().cpu().double().numpy()
            self.saliency = saliency(self.saliency, self.t, self.mask, joint)
        if self.step % (self.period * self.per_epoch) == 0:
            self._resize()

    def criteria(self) -> dict[str, Floats]:
        """(D, O) each: the saliency, and p q as it is now, q of all operations drawn so far.

        In eq. 11 q is of those in the subspace, 1 where an operation is alone: until ζ and α are
        far apart the saliency says which operations were drawn together.
        """
        drawn = self.t.astype(bool) | self.Z
        joint = self.joint(drawn).detach().cpu().double().numpy()
        return {"saliency": self.saliency if self.saliency.any() else joint, "joint": joint}

    def scores(self) -> Floats:
        """Line 15: an edge takes its most salient operation, none excepted."""
        return np.where(self.cut, -np.inf, self.criteria()[self.criterion])

    def selected(self) -> Archs:
        """From all that is open now, not only from the subspace that was trained last."""
        return self.net.select(np.where(self.allowed, self.scores(), -np.inf), self.region)

    # ---- the elastic space (section 4.2)

    def _resize(self) -> None:
        if self.mode == "shrink":
            self.allowed = shrink(self.allowed, self.saliency, self.groups, self.cut)
        elif self.mode == "expand":
            further = (self.net.named(op) & self.whole for op in THEN)
            self.allowed |= next((ops for ops in further if (ops & ~self.allowed).any()), False)

    def epoch_metrics(self, search: Search) -> dict[str, float]:
        return {"subspaces": float(self.T), "operations": float(self.allowed.sum())}

    # ---- checkpoints

    def memory(self) -> dict[str, Any]:
        names = ("T", "t", "saliency", "Z", "allowed")
        return {name: getattr(self, name) for name in names}

    def remember(self, memory: dict[str, Any]) -> None:
        for name, value in memory.items():
            setattr(self, name, value)


def ucb(p: Floats, T: int, t: npt.NDArray[np.int64]) -> Floats:
    """p = f(ζ) and the counts -> UCB = f(ζ) + sqrt(2 log T / t)   (eq. 4)."""
    bonus = np.sqrt(2 * np.log(max(T, 1)) / np.maximum(t, 1))
    return p + np.where(t == 0, NEVER, bonus)


def sample(
    confidence: Floats, allowed: Bools, L: int, groups: list[list[int]], cut: Bools
) -> Bools:
    """(D, O) confidence -> (D, O) mask: the L best operations of each cell.

    Every edge keeps its best operation that does not cut it; where fewer than L operations are
    allowed, all of them.
    """
    confidence = np.where(allowed, confidence, -np.inf)
    Z = np.zeros(allowed.shape, bool)
    for edges in groups:
        best = confidence[edges]
        needed = np.zeros(best.shape, bool)
        passing = np.where(cut[edges], -np.inf, best)
        needed[np.arange(len(edges)), passing.argmax(-1)] = True
        ranked = np.where(needed, np.inf, best).ravel()
        top = np.zeros(ranked.size, bool)
        top[np.argsort(-ranked, kind="stable")[:L]] = True
        Z[edges] = top.reshape(best.shape)
    return Z & allowed


def saliency(s: Floats, t: npt.NDArray[np.int64], Z: Bools, joint: Floats) -> Floats:
    """The running mean of p q over the subspaces that had the operation   (eq. 11)."""
    return np.where(Z, s + (joint - s) / np.maximum(t, 1), s)


def shrink(allowed: Bools, s: Floats, groups: list[list[int]], cut: Bools) -> Bools:
    """Without the least salient operations, as many as a cell has edges; every edge keeps one,
    that does not cut it if it has any such."""
    allowed = allowed.copy()
    for edges in groups:
        order = np.argsort(np.where(allowed[edges], s[edges], np.inf), axis=None, kind="stable")
        deleted = 0
        for edge, k in zip(*np.unravel_index(order, s[edges].shape), strict=True):
            row = allowed[edges[edge]]
            if deleted == len(edges) or not row[k]:
                break
            passing = row & ~cut[edges[edge]]
            if row.sum() > 1 and (not passing[k] or passing.sum() > 1):
                row[k] = False
                deleted += 1
    return allowed
