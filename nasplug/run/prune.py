"""Pruning: giving up trials that are worse than others were at the same step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nasplug.kernel.trial import Trial, Trials


def median_pruner(trials: Trials, warmup: int = 5) -> Callable[[Trial], bool]:
    """Prune what is worse than the median of the finished trials at the same step."""

    def prune(trial: Trial) -> bool:
        if not (now := trial.intermediate_values):
            return False
        step = max(now)
        others = [
            float(note["intermediate"][str(step)])
            for note in trials.notes.values()
            if note.get("intermediate", {}).get(str(step)) is not None
        ]
        if len(others) < warmup:
            return False
        sign = 1 if trials.maximize else -1
        return sign * now[step] < sign * float(np.median(others))

    return prune
