"""PC-DARTS: "Partial Channel Connections for Memory-Efficient Architecture Search" (Xu et al., ICLR
2020)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nasplug import Int, Search
from nasplug.nn.oneshot import Oneshot

if TYPE_CHECKING:
    from torch import Tensor

    from nasplug.nn.bilevel import Mixture


class PCDarts(Oneshot):
    """PC-DARTS: 1/K of the channels pass the operations; the edges are weighed too."""

    paper = "Xu et al., PC-DARTS: Partial Channel Connections, ICLR 2020"

    K = Int(4, low=2, high=64, doc="1/K of the channels pass the operations")
    lr = replace(Oneshot.lr, default=0.1)
    arch_lr = replace(Oneshot.arch_lr, default=6e-4)
    warmup = replace(Oneshot.warmup, default=15)

    @property
    def partial(self) -> int:
        return self.K

    def start(self, search: Search) -> list[Tensor]:
        self.alpha, self.beta = (
            self.parameter(*self.allowed.shape),
            self.parameter(len(self.allowed)),
        )
        return [self.alpha, self.beta]

    def mixture(self) -> Mixture:
        from nasplug.nn.bilevel import Mixture
        from nasplug.nn.mixed import edge_gates

        forbidden = self.alpha.new_tensor(~self.allowed).bool()
        weights = self.alpha.masked_fill(forbidden, -np.inf).softmax(-1)  # eq. 2
        return Mixture(weights, self.allowed, edge_gates(self.beta, self.net.incoming()))  # eq. 3

    def scores(self) -> npt.NDArray[np.float64]:
        mixture = self.mixture()
        assert mixture.gates is not None
        return (mixture.weights * mixture.gates[:, None]).detach().cpu().double().numpy()
