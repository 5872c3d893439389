"""Pruning: giving up trials that are worse than others were at the same step."""

from __future__ import annotations

from bisect import insort
from collections import defaultdict

import numpy as np
import numpy.typing as npt

from nasplug.kernel.search import Search
from nasplug.kernel.trial import Trial, Trials


class MedianPruner:
    """Prunes what is worse than the median of the finished trials at the same step.

    It listens to the search, replayed trials included, so that a trial costs no more the more
    there were before.
    """

    def __init__(self, search: Search, warmup: int = 5) -> None:
        self.warmup = warmup
        self.sign = 1 if search.maximize else -1
        self.values: dict[int, list[float]] = defaultdict(list)  # step -> sorted
        search.listeners.append(self._learn)

    def _learn(self, trials: Trials, rows: npt.NDArray[np.intp]) -> None:
        for row in rows.tolist():
            for step, value in trials.notes.get(row, {}).get("intermediate", {}).items():
                if value is not None:  # it was not finite
                    insort(self.values[int(step)], value)

    def __call__(self, trial: Trial) -> bool:
        if not (now := trial.intermediate_values):
            return False
        step = max(now)
        others = self.values[step]
        if len(others) < self.warmup:
            return False
        median = (others[(len(others) - 1) // 2] + others[len(others) // 2]) / 2
        return self.sign * now[step] < self.sign * median
