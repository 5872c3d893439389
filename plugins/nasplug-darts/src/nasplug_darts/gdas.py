"""GDAS: "Searching for a Robust Neural Architecture in Four GPU Hours" (Dong and Yang, CVPR
2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nasplug import Float, Search
from nasplug.nn.oneshot import Oneshot

if TYPE_CHECKING:
    from torch import Tensor

    from nasplug.nn.bilevel import Mixture


class GDAS(Oneshot):
    """GDAS: one operation per edge and step, drawn by Gumbel-softmax with gradient."""

    paper = "Dong and Yang, Searching for a Robust Neural Architecture in Four GPU Hours, CVPR 2019"

    tau_first = Float(10.0, low=0.01, high=100, doc="temperature of the first epoch")
    tau_last = Float(0.1, low=0.01, high=100, doc="temperature of the last; linear in between")

    def start(self, search: Search) -> list[Tensor]:
        self.alpha = self.parameter(*self.allowed.shape)
        self.forbidden = self.alpha.detach().new_tensor(~self.allowed).bool()
        return [self.alpha]

    def mixture(self) -> Mixture:
        import torch

        from nasplug.nn.bilevel import Mixture
        from nasplug.nn.data import mixed_seed
        from nasplug.nn.mixed import gumbel

        progress = self.step / self.per_epoch / max(1, self.total - 1)
        tau = self.tau_first + (self.tau_last - self.tau_first) * min(1.0, progress)
        architecture = torch.is_grad_enabled()  # each half of a step draws its own
        seed = mixed_seed(self.seed, self.step, 2 + architecture)
        logits = self.alpha.masked_fill(self.forbidden, -np.inf)
        weights, mask = gumbel(logits, tau, torch.Generator().manual_seed(seed))  # eq. 6 and 7
        return Mixture(weights, mask)

    def scores(self) -> npt.NDArray[np.float64]:
        return self.alpha.detach().cpu().double().numpy()
