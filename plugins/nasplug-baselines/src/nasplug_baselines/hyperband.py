"""Hyperband: brackets of successive halving that differ in how early they give archs up."""

from __future__ import annotations

from nasplug import Int, Search
from nasplug_baselines.halving import Halving


class Hyperband(Halving):
    """Hyperband: successive halving from many archs at a low fidelity to few at the full one.

    The brackets are those of the paper's Algorithm 1, from s_max down to 0, again and again.
    """

    paper = (
        "Li et al., Hyperband: a novel bandit-based approach to hyperparameter optimization, "
        "JMLR 2018"
    )

    brackets = Int(
        0, low=0, high=64, tunable=False,
        doc="only the first so many of them, those that begin with most archs; 0: all",
    )  # fmt: skip

    def setup(self, search: Search) -> None:
        super().setup(search)
        self.begun = 0

    def bracket(self) -> tuple[int, int]:
        brackets = min(self.brackets or self.top + 1, self.top + 1)
        s = self.top - self.begun % brackets  # s_max, s_max - 1, ...
        self.begun += 1
        n = -(-(self.top + 1) * self.eta**s // (s + 1))  # ⌈B/R · η^s / (s + 1)⌉
        return n, self.top - s
