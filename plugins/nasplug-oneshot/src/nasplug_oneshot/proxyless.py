"""ProxylessNAS: "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware" (Cai,
Zhu and Han, ICLR 2019), with multiply-adds for the latency, as AutoSpace has it (eq. 6)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nasplug import Choice, Float, Search
from nasplug.nn.oneshot import Oneshot
from nasplug_oneshot.paths import MAdds, chain_supernet

if TYPE_CHECKING:
    from torch import Tensor

    from nasplug.nn.bilevel import Batch, Mixture
    from nasplug.nn.chain import ChainSupernet

BASELINE = 0.9  # how much of it a moving average of the reward keeps


class Proxyless(Oneshot):
    """ProxylessNAS: one path of a supernet in memory to learn weights, two to learn which to take.

    The result keeps to `target_madds`, if there is one.
    """

    paper = "Cai et al., ProxylessNAS: Direct NAS on Target Task and Hardware, ICLR 2019"
    problem = "manual-irb/digits"

    algorithm = Choice(
        "gradient", choices=("gradient", "reinforce"),
        doc="how paths are learned: through binary gates, or by the reward of one sampled path",
    )  # fmt: skip
    target_madds = Float(0.0, low=0, high=1e15, tunable=False, doc="multiply-adds; 0: no limit")
    penalty = Float(1.0, low=0, high=1e3, doc="λ: of the expected MAdds over the target (eq. 6)")
    lr = replace(Oneshot.lr, default=0.1)
    arch_lr = Float(
        6e-3, low=1e-6, high=10, log=True, doc="of the paths: Adam; the paper: 0.01 to reinforce"
    )

    net: ChainSupernet

    def make_supernet(self, search: Search) -> ChainSupernet:
        return chain_supernet(search, self.images, self.seed)

    def start(self, search: Search) -> list[Tensor]:
        import torch

        self.alpha = self.parameter(*self.allowed.shape)
        self.forbidden = torch.from_numpy(~self.allowed).to(self.device)
        self.madds = MAdds(self.net, self.allowed)
        self.madds.reachable(self.target_madds)
        self.costs = self.alpha.detach().new_tensor(self.madds.costs)
        self.baseline = float("nan")
        return [self.alpha]

    def setup(self, search: Search) -> None:
        super().setup(search)
        if self.target_madds and self.algorithm == "gradient":
            self.bilevel.penalty = self.over_target

    # ---- a step

    @property
    def logits(self) -> Tensor:
        return self.alpha.masked_fill(self.forbidden, -np.inf)

    def mixture(self) -> Mixture:
        """One path to learn weights; two, of which one is open, to learn by gradient (eq. 4)."""
        import torch

        from nasplug.nn.bilevel import Mixture
        from nasplug.nn.mixed import binary_gates

        paths = 2 if torch.is_grad_enabled() else 1
        gates, mask = binary_gates(self.logits, paths, self._generator(paths))
        return Mixture(gates, mask & self.allowed)

    def over_target(self) -> Tensor:
        """λ (E[MAdds] / target - 1), nothing below the target   (AutoSpace, eq. 6)."""
        expected = self.madds.fixed + (self.logits.softmax(-1) * self.costs).sum()
        return self.penalty * (expected / self.target_madds - 1).clamp(min=0)

    def architecture_step(self, val: Batch, train: Batch) -> Tensor:
        if self.algorithm == "gradient":
            return super().architecture_step(val, train)
        return self._reinforce(val)

    def _reinforce(self, val: Batch) -> Tensor:
        """∇ log p of a sampled path times its reward, less a moving average (section 3.3)."""
        import torch

        from nasplug.nn.bilevel import Mixture
        from nasplug.nn.mixed import draw_paths

        path = draw_paths(self.logits.cpu(), self._generator(2))
        with torch.no_grad():
            loss = self.bilevel.loss(val, Mixture(self.alpha.new_ones(path.shape), path))
        reward = -float(loss)
        if self.target_madds:
            madds = self.madds.fixed + float(self.madds.costs[path].sum())
            reward -= self.penalty * max(0.0, madds / self.target_madds - 1)
        if np.isnan(self.baseline):
            self.baseline = reward
        log_p = self.logits.log_softmax(-1)[torch.from_numpy(path).to(self.device)].sum()
        self.bilevel.architecture.zero_grad()
        torch.autograd.backward(-(reward - self.baseline) * log_p)
        self.bilevel.architecture.step()
        self.baseline = BASELINE * self.baseline + (1 - BASELINE) * reward
        return loss

    def _generator(self, which: int) -> Any:
        import torch

        from nasplug.nn.data import mixed_seed

        return torch.Generator().manual_seed(mixed_seed(self.seed, self.step, 1 + which))

    # ---- the answer

    def scores(self) -> npt.NDArray[np.float64]:
        """Log-probabilities, less what keeps the best of all layers to the target."""
        log_p = self.logits.detach().log_softmax(-1).cpu().double().numpy()
        return self.madds.within(log_p, self.target_madds)

    def epoch_metrics(self, search: Search) -> dict[str, float]:
        p = self.logits.detach().softmax(-1).cpu().double().numpy()
        entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(-1).mean()
        expected = self.madds.fixed + (p * self.madds.costs).sum()
        return {"expected_madds": float(expected), "entropy": float(entropy)}

    def memory(self) -> dict[str, Any]:
        return {"baseline": None if np.isnan(self.baseline) else self.baseline}

    def remember(self, memory: dict[str, Any]) -> None:
        self.baseline = float("nan") if memory["baseline"] is None else memory["baseline"]
