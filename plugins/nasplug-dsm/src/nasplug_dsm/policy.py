"""What a policy is to Algorithm 1: it picks a center and samples edits of it, and may learn.

Here is the random one of the paper's ablation; `nasplug_dsm.controller` has the learned one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nasplug import Archs

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass
class Edits:
    """n sequences of M edits of one center: which component, and its new choice."""

    components: Ints  # (n, M)
    choices: Ints  # (n, M)

    def apply(self, center: Archs) -> Archs:
        """The n children (n, d) of a center (d,), each a copy; eq. 1."""
        children = np.repeat(center[None], len(self.components), axis=0)
        rows = np.arange(len(children))
        for component, choice in zip(self.components.T, self.choices.T, strict=True):
            children[rows, component] = choice
        return children

    @classmethod
    def between(cls, center: Archs, children: Archs, M: int) -> Edits:
        """Edits that turn a center (d,) into children (n, d), at most M components away."""
        # Components that differ come first; the rest of the M edits change nothing.
        components = np.argsort(children == center, axis=1, kind="stable")[:, :M]
        components = np.pad(components, ((0, 0), (0, M - components.shape[1])), mode="edge")
        choices = np.take_along_axis(children, components, axis=1)
        return cls(components, choices.astype(np.int64))

    def __getitem__(self, rows: Any) -> Edits:
        return Edits(self.components[rows], self.choices[rows])


class Policy(Protocol):
    def pick(self, centers: Archs, scores: Floats, closed: Bools, rng: np.random.Generator) -> int:
        """The center to look around, out of (K, d) centers; never a closed one."""

    def edit(self, n: int, rng: np.random.Generator) -> Edits:
        """n sequences of edits of the center just picked."""

    def learn(self, edits: Edits, advantages: Floats) -> None:
        """(n,) how much better than expected some edits of the center just picked were."""


class RandomPolicy:
    """Any center, any component, any allowed choice of it; learns nothing.

    allowed: (d, C) which choices each decision may take.
    """

    def __init__(self, allowed: Bools, M: int) -> None:
        self.M = M
        self.free = np.flatnonzero(allowed.sum(1) > 1)
        self.counts = allowed.sum(1)
        self.order = np.argsort(~allowed, axis=1, kind="stable")  # allowed choices first

    def pick(self, centers: Archs, scores: Floats, closed: Bools, rng: np.random.Generator) -> int:
        return int(rng.choice(np.flatnonzero(~closed)))

    def edit(self, n: int, rng: np.random.Generator) -> Edits:
        components = rng.choice(self.free, (n, self.M))
        return Edits(components, self.order[components, rng.integers(self.counts[components])])

    def learn(self, edits: Edits, advantages: Floats) -> None:
        pass
