"""A problem on which anything can be tried in milliseconds, offline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nasplug.kernel.problem import Problem
from nasplug.kernel.space import Archs, Space

OPS = ("none", "skip", "pool", "conv")
COST = np.array([0, 0, 1, 9])  # parameters of each per width


class TinySpace(Space):
    """Four operations and the width of the last: 768 points, with all that makes spaces special.

    Without any operation an arch is not valid; where the last operation is none the width makes no
    difference, so these archs are isomorphic. It counts `params`.
    """

    name = "tiny"

    def __init__(self) -> None:
        super().__init__({**{f"op{i}": OPS for i in range(4)}, "width": [8, 16, 24]})

    def is_valid(self, archs: Archs) -> npt.NDArray[np.bool_]:
        return np.asarray((archs[:, :4] > 0).any(1))

    def canonical(self, archs: Archs) -> Archs:
        canonical = np.array(archs)
        canonical[canonical[:, 3] == 0, 4] = 0
        return canonical

    def params(self, archs: Archs) -> npt.NDArray[np.int64]:
        archs = np.asarray(archs)
        widths = np.array(self.decisions["width"])[archs[:, 4]]
        params = COST[archs[:, :3]].sum(1) * 8 + COST[archs[:, 3]] * widths
        return params.astype(np.int64)


def tiny_problem(
    space: Space | None = None,
    evaluate: Callable[..., Any] | None = None,
    direction: Literal["maximize", "minimize"] = "maximize",
) -> Problem:
    """A `TinySpace`, or another space, with a function that scores its archs at once.

    By default the later choices of each decision are the better ones, and no two archs of different
    kind have the same value.
    """
    return Problem.of(**tiny_task(space, evaluate, direction))


def tiny_task(
    space: Space | None = None,
    evaluate: Callable[..., Any] | None = None,
    direction: Literal["maximize", "minimize"] = "maximize",
) -> dict[str, Any]:
    """The same, as the options of `nasplug.search`."""
    space = TinySpace() if space is None else space
    return {"space": space, "evaluate": evaluate or partial(value, space), "direction": direction}


def value(space: Space, arch: Mapping[str, Any], trial: Any = None) -> float:
    """The sum of where each choice stands among the others, weighed by the square root of the
    number of the decision, so that no sum comes twice; the same at every fidelity."""
    canonical = space.canonical(space.from_dict(arch)[None])[0]
    return float(np.sqrt(np.arange(2, space.d + 2)) @ (canonical / space.cardinalities))


def negative(space: Space, arch: Mapping[str, Any], trial: Any = None) -> float:
    """What is to be minimised where `value` is to be maximised."""
    return -value(space, arch)
