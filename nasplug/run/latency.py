"""What tells a search the latency of archs: its evaluator, a table, or a clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError, lacking
from nasplug.kernel.search import Search
from nasplug.kernel.space import Archs, Space
from nasplug.kernel.trial import Trials
from nasplug.spaces.latency import Floats, LatencyTable

LATENCY = "latency"  # the metric, in ms unless the evaluator has units of its own

Given = LatencyTable | Mapping[str, Any] | Path | str


class Latency:
    """A plugin that tells a search latencies, as ``search.latency``: by the table that is given, or
    measured on this machine once an arch is scored, unless its evaluator has told it."""

    def __init__(self, given: Given | None) -> None:
        self.given = given

    def setup(self, search: Search) -> None:
        search.latency = (
            Clock(search.space) if self.given is None else table(search.space, self.given)
        )


class Clock:
    """(n, d) archs -> (n,) ms on this machine; torch is imported when it is first asked."""

    known = False

    def __init__(self, space: Space) -> None:
        self.space = space
        self._measured: Callable[[Archs], Floats] | None = None

    def __call__(self, archs: Archs) -> Floats:
        if self._measured is None:
            if not self.space.builds:
                raise NasplugError(
                    f"{self.space.name} builds no networks whose latency could be measured, and "
                    "its evaluator does not tell it: give a table, latency='table.json'"
                )
            try:
                module: Any = import_module("nasplug.evaluators.latency")
            except ImportError as error:
                raise lacking("measuring latency", error) from None
            self._measured = module.Measured(self.space)
        return self._measured(archs)


def table(space: Space, given: Given) -> LatencyTable:
    """A table for a space, from its file or from what run.json holds."""
    if isinstance(given, LatencyTable):
        return LatencyTable.of(space, given.content)
    if isinstance(given, Mapping):
        return LatencyTable.of(space, given)
    if not isinstance(given, Path | str):
        raise NasplugError(f"latency is the file of a table, `nasplug latency-table`: {given!r}")
    return LatencyTable.load(space, given)


def note(trials: Trials, rows: npt.NDArray[np.intp], latency: Any) -> Floats:
    """(k,) the latency of rows that have been scored, kept as a metric of theirs: by a table, or
    else what the evaluator has told, and where it has not, measured, if that can be."""
    told = LATENCY in trials.metrics
    column = trials.metric(LATENCY)
    missing = rows if latency.known else rows[np.isnan(column[rows])]
    if len(missing) and (latency.known or trials.space.builds or not told):
        column[missing] = latency(trials.archs[missing])
    return column[rows]
