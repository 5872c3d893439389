"""OStr-DARTS: Algorithm 1 of "OStr-DARTS: Differentiable Neural Architecture Search based on
Operation Strength" (Yang et al.). Equation numbers are the paper's."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from nasplug import Archs, Choice, Int, Search, Selection, Trials, hookimpl
from nasplug.nn import Floats, Mixture, Oneshot, draw_edges, edge_gates
from nasplug_ostr.features import features

CRITERIA = ("strength", "strength*", "naive", "magnitude")
PARTIAL = 4  # PC-DARTS: a quarter of the channels pass the operations


class OStrDarts(Oneshot):
    """OStr-DARTS: DARTS's supernet; the operations that the loss would miss most are selected."""

    paper = (
        "Yang et al., OStr-DARTS: Differentiable Architecture Search based on Operation Strength"
    )

    ablations = {  # noqa: RUF012 - read only; Table V and Figure 9
        "by magnitude": {"criterion": "magnitude"},
        "naive pruning": {"criterion": "naive"},
        "strength*": {"criterion": "strength*"},
    }

    criterion = Choice("strength", choices=CRITERIA, doc="how operations are selected")
    variant = Choice("darts", choices=("darts", "pc-darts"), doc="how the supernet is trained")
    patience = Int(
        0, low=0, high=100_000,
        doc="epochs without a change of the arch after which the search stops; 0: never",
    )  # fmt: skip

    @property
    def partial(self) -> int:
        return PARTIAL if self.variant == "pc-darts" else 1

    def start(self, search: Search) -> list[Tensor]:
        self.alpha = self.parameter(*self.mask.shape)
        self.gates = self.parameter(len(self.mask)) if self.partial > 1 else None
        self.sums = {name: self.alpha.detach() * 0 for name in CRITERIA}
        self.batches = 0
        self.unchanged = 0
        self.strength: Floats = np.zeros(self.mask.shape)  # of the last epoch
        self.last: Archs | None = None
        return [self.alpha] if self.gates is None else [self.alpha, self.gates]

    def mixture(self) -> Mixture:
        beta = self.masked(self.alpha).softmax(-1)  # eq. 1
        gates = None if self.gates is None else edge_gates(self.gates, self.net.incoming())
        return Mixture(beta, self.mask, gates)

    def after_step(self) -> None:
        """Add this mini-batch to the four criteria; all of it is there already."""
        if self.epoch < self.warmup:
            return
        beta, gradient = self.bilevel.mixed, self.bilevel.gradient
        strength = self.alpha.grad.abs()  # type: ignore[union-attr]  # eq. 9 and 10
        self.sums["strength"] += strength
        self.sums["strength*"] += (
            gradient - (beta * gradient).sum(-1, keepdim=True)
        ).abs()  # eq. 18
        self.sums["naive"] += (beta * gradient).abs()  # of removing it: ō - β_o o
        self.sums["magnitude"] += beta
        self.batches += 1

    def criteria(self) -> dict[str, Floats]:
        """(D, O) each: the mean over the epoch's mini-batches of the absolute value; eq. 11."""
        mean = {
            name: s.cpu().double().numpy() / max(1, self.batches) for name, s in self.sums.items()
        }
        # DARTS selects by the magnitude that the epoch ends with, PC-DARTS with that of the edge.
        mixture = self.mixture()
        gates = 1.0 if mixture.gates is None else mixture.gates[:, None]
        mean["magnitude"] = (mixture.weights * gates).detach().cpu().double().numpy()
        return mean

    def epoch_metrics(self, search: Search) -> dict[str, float]:
        """What the table reports of the archs that each criterion selects on this supernet."""
        criteria = self.criteria().values()
        archs = np.array(
            [self.net.select(np.where(self.mask, s, -np.inf), self.handed) for s in criteria]
        )
        if (known := self.look_up(archs)) is None:
            return {}
        names = [f"{name}.{self.report}" for name in CRITERIA]
        reports = zip(names, known.reports.tolist(), strict=True)
        return {name: report for name, report in reports if np.isfinite(report)}

    def scores(self) -> Floats:
        """By the criterion; by magnitude in warm-up, when there is no gradient to go by."""
        return self.criteria()[self.criterion if self.batches else "magnitude"]

    @hookimpl
    def update(self, search: Search, trials: Trials) -> None:
        """Early stop, in epochs that learned the architecture; the next one's sums start anew."""
        if not len(trials) or not self.batches:
            return
        arch = trials.archs[0]
        same = self.last is not None and np.array_equal(self.last, arch)
        self.unchanged = self.unchanged + 1 if same else 0
        self.last = arch
        if self.patience and self.unchanged >= self.patience:
            search.stop(f"the arch has not changed for {self.unchanged} epochs")
        self.strength = self.criteria()["strength"]
        for s in self.sums.values():
            s.zero_()
        self.batches = 0

    @hookimpl
    def select_final(self, search: Search) -> Selection:
        selection = super().select_final(search)
        selection.pictures["edges.png"] = self._draw_edges
        return selection

    def _draw_edges(self, figure: Any) -> None:
        """β, the norm of the residual features and strength, per edge (Fig. 6)."""
        mixture = self.mixture()
        norms, _ = features(self.net.eval(), mixture, self.val[self.step])
        quantities = {
            "β": mixture.weights.detach().cpu().double().numpy(),
            "residual feature |o - ō|": norms.cpu().double().numpy(),
            "strength": self.strength,
        }
        draw_edges(self.net.decisions, self.net.choices, quantities, figure)

    def memory(self) -> dict[str, Any]:
        return {"unchanged": self.unchanged, "last": self.last, "strength": self.strength}

    def remember(self, memory: dict[str, Any]) -> None:
        self.unchanged, self.last = int(memory["unchanged"]), memory["last"]
        self.strength = memory["strength"]
