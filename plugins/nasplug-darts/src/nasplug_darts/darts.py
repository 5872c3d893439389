"""DARTS: Algorithm 1 of "DARTS: Differentiable Architecture Search" (Liu, Simonyan and Yang, ICLR
2019)."""

from __future__ import annotations

from torch import Tensor

from nasplug import Int, Search
from nasplug.nn import Floats, Mixture, Oneshot


class Darts(Oneshot):
    """DARTS: a softmax over all operations, learned by gradient; the largest weight wins."""

    paper = "Liu et al., DARTS: Differentiable Architecture Search, ICLR 2019"

    order = Int(1, low=1, high=2, doc="2: the gradient through one unrolled step of the weights")

    def start(self, search: Search) -> list[Tensor]:
        self.alpha = self.parameter(*self.mask.shape)
        return [self.alpha]

    def mixture(self) -> Mixture:
        return Mixture(self.masked(self.alpha).softmax(-1), self.mask)  # eq. 2

    def scores(self) -> Floats:
        return self.mixture().weights.detach().cpu().double().numpy()
