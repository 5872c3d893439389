"""GDAS: "Searching for a Robust Neural Architecture in Four GPU Hours" (Dong and Yang, CVPR
2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from nasplug import Float, Search
from nasplug.nn import Floats, Mixture, Oneshot, gumbel


class GDAS(Oneshot):
    """GDAS: one operation per edge and step, drawn by Gumbel-softmax with gradient."""

    paper = "Dong and Yang, Searching for a Robust Neural Architecture in Four GPU Hours, CVPR 2019"

    tau_first = Float(10.0, low=0.01, high=100, doc="temperature of the first epoch")
    tau_last = Float(0.1, low=0.01, high=100, doc="temperature of the last; linear in between")

    mixes = False  # the others have no weight

    def start(self, search: Search) -> list[Tensor]:
        self.alpha = self.parameter(*self.mask.shape)
        return [self.alpha]

    def mixture(self) -> Mixture:
        progress = self.step / self.per_epoch / max(1, self.total - 1)
        tau = self.tau_first + (self.tau_last - self.tau_first) * min(1.0, progress)
        architecture = torch.is_grad_enabled()  # each half of a step draws its own
        generator = self.generator(2 + architecture)
        weights, mask = gumbel(self.masked(self.alpha), tau, generator)  # eq. 6 and 7
        return Mixture(weights, mask)

    def scores(self) -> Floats:
        return self.alpha.detach().cpu().double().numpy()
