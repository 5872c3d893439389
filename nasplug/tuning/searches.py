"""searches.jsonl: every search of a study, a line each, written when it ends.

It is what the tracking process sends, and what answers hyperparameters and a seed that have
been searched with before: those of a trial whose worker was killed, or that a sampler repeats.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nasplug.errors import NasplugError
from nasplug.kernel.selection import Selection
from nasplug.kernel.trial import State, Trial, Trials
from nasplug.tracking import read_lines

Record = dict[str, Any]


class Searches:
    """The searches of a study directory, those of other processes included."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._known: dict[str, Record] = {}
        self._offset = 0

    def find(self, hyperparameters: Mapping[str, Any], seed: int) -> Record | None:
        """The record of a search with these, if there has been one."""
        for record, offset in read_lines(self.file, self._offset):
            self._offset = offset
            if record.get("seed") is not None and not record.get("error"):
                self._known[_key(record["hyperparameters"], record["seed"])] = record
        return self._known.get(_key(hyperparameters, seed))

    def append(self, record: Record) -> None:
        """One write, so that the lines of several processes do not mix."""
        with self.file.open("ab", buffering=0) as file:
            file.write(json.dumps(record, allow_nan=False).encode() + b"\n")


def describe(selection: Selection, objectives: Sequence[str]) -> Record:
    """What a study keeps of a search: the objectives, the selected arch, the anytime curve."""
    search, best = selection.search, selection.best
    trials = search.trials
    costs = trials.costs[~trials.repeats]
    known = {
        "value": _number(best.value), "report": _number(best.report_value),
        "cost": float(np.nansum(costs)) if np.isfinite(costs).any() else None,
        "seconds": search.elapsed, "trials": len(trials),
    }  # fmt: skip
    return {
        **known,
        "objectives": [_objective(name, known, best) for name in objectives],
        "start": time.time() - search.elapsed,
        "arch": str(best),
        "curve": _curve(trials),
    }


def _objective(name: str, known: Mapping[str, Any], best: Trial) -> float:
    """A named number of a search: its own, or one of the arch that it selected."""
    number = known.get(name)
    if number is None and name == "cost":  # of a table that states none
        number = known["seconds"]
    if number is None and name in best.metrics:
        number = _number(best.metrics[name])
    if number is None and name in ("params", "flops"):
        number = float(getattr(best.space, name)(best.arch[None])[0])
    if number is None:
        stated = (n for n in known if known[n] is not None)
        names = sorted({*stated, *best.metrics, "cost", "params", "flops"})
        raise NasplugError(f"the objective {name!r} is not known here; known: {', '.join(names)}")
    return float(number)


def _curve(trials: Trials) -> list[tuple[int, float, float | None]]:
    """(trial, value, report) of each trial that was better than all before it."""
    scores = trials.ranks
    before = np.maximum.accumulate(np.append(-np.inf, scores[:-1]))
    return [
        (int(row), float(trials.values[row]), _number(trials.reports[row]))
        for row in np.flatnonzero((scores > before) & (trials.states == State.COMPLETE))
    ]


def _number(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def _key(hyperparameters: Mapping[str, Any], seed: int) -> str:
    return json.dumps([sorted(hyperparameters.items()), seed])
