"""PC-DARTS: "Partial Channel Connections for Memory-Efficient Architecture Search" (Xu et al., ICLR
2020)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from nasplug import Int, Search
from nasplug.nn import Floats, Mixture, Oneshot, edge_gates


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
        self.alpha = self.parameter(*self.mask.shape)
        self.beta = self.parameter(len(self.mask))
        return [self.alpha, self.beta]

    def mixture(self) -> Mixture:
        weights = self.masked(self.alpha).softmax(-1)  # eq. 2
        return Mixture(weights, self.mask, edge_gates(self.beta, self.net.incoming()))  # eq. 3

    def scores(self) -> Floats:
        mixture = self.mixture()
        assert mixture.gates is not None
        return (mixture.weights * mixture.gates[:, None]).detach().cpu().double().numpy()
