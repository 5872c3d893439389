"""DARTS: Algorithm 1 of "DARTS: Differentiable Architecture Search" (Liu, Simonyan and Yang, ICLR
2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nasplug import Int, Search
from nasplug.nn.oneshot import Oneshot

if TYPE_CHECKING:
    from torch import Tensor

    from nasplug.nn.bilevel import Mixture


class Darts(Oneshot):
    """DARTS: a softmax over all operations, learned by gradient; the largest weight wins."""

    paper = "Liu et al., DARTS: Differentiable Architecture Search, ICLR 2019"

    order = Int(1, low=1, high=2, doc="2: the gradient through one unrolled step of the weights")

    def start(self, search: Search) -> list[Tensor]:
        self.alpha = self.parameter(*self.allowed.shape)
        return [self.alpha]

    def mixture(self) -> Mixture:
        from nasplug.nn.bilevel import Mixture

        forbidden = self.alpha.new_tensor(~self.allowed).bool()
        return Mixture(
            self.alpha.masked_fill(forbidden, -np.inf).softmax(-1), self.allowed
        )  # eq. 2

    def scores(self) -> npt.NDArray[np.float64]:
        return self.mixture().weights.detach().cpu().double().numpy()
