"""Replay: how a search that was interrupted goes on with the same trials as if it never had been.

What was scored is in the journal. A method whose own work is light runs again from the start, and
the journal answers what it proposes; one that keeps a state goes on from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.hookspecs import hookimpl
from nasplug.kernel.search import Search
from nasplug.kernel.space import Archs
from nasplug.kernel.subspace import Region
from nasplug.kernel.trial import Trials
from nasplug.run.directory import RunDirectory
from nasplug.run.journal import Row

Rows = npt.NDArray[np.intp]


class Replay:
    """A plugin of a search that journals every trial, and on resume answers from the journal."""

    def __init__(self, search: Search, directory: RunDirectory) -> None:
        self.search, self.directory = search, directory
        self._answering = False
        past = directory.journal.read()
        state = directory.load_checkpoint() if past else None
        done = int(state["trials"]) if state else 0
        if done > len(past):
            raise NasplugError(
                f"{directory.path} is damaged: its checkpoint is of {done} trials, its journal has "
                f"{len(past)}; delete checkpoint.npz to replay the journal"
            )
        if done:
            self._restore(past[:done])
        if state:
            search.load_state(state)
        self._past = {row.number: row for row in past[done:]}  # those that are not replayed yet
        status = directory.status()
        self._end = status if status.get("state") == "finished" else None
        # Until then no clock: what was scored is kept, however long it takes to replay.
        self._max_seconds, search.max_seconds = search.max_seconds, None
        self._go_on()
        search.folder = directory.path
        search.listeners.insert(0, self._write)
        search.pm.register(self, "journal")

    @hookimpl(wrapper=True)
    def evaluate(self, candidates: Trials | Region) -> Generator[None, Trials, Trials]:
        if self._past and isinstance(candidates, Trials):
            rows = [r for r in candidates.waiting if int(candidates.numbers[r]) in self._past]
            past = [self._past.pop(int(candidates.numbers[row])) for row in rows]
            if past:
                self._check(candidates.archs[rows], past)
                self._answering = True
                self._tell(candidates, np.array(rows), past)
                self._answering = False
        return (yield)

    @hookimpl(trylast=True)
    def update(self) -> None:
        """A checkpoint after each round of a method that keeps a state."""
        self._go_on()
        if (state := self.search.state()) is not None:
            self.directory.save_checkpoint({"trials": len(self.search.trials), **state})

    def _go_on(self) -> None:
        """Once all is replayed: a search that had finished ends in the round in which it did."""
        if self._past:
            return
        if self._end is None:
            self.search.max_seconds = self._max_seconds
        elif self.search.round >= self._end["rounds"]:
            self.search.ended = self._end["seconds"]
            self.search.stop(self._end["stopped"])

    def _restore(self, past: Sequence[Row]) -> None:
        """Take over the trials until the checkpoint."""
        search = self.search
        archs = np.array([self._arch(row) for row in past])
        trials = search.candidates(archs)
        trials.rounds = np.array([row.round for row in past])
        for number, key in enumerate(search.keys(archs)):
            search.cache.numbers.setdefault(key, number)
        self._tell(trials, np.arange(len(past)), past)

    def _arch(self, row: Row) -> Archs:
        return np.frombuffer(row.arch, dtype=self.search.space.dtype)

    def _check(self, archs: Archs, past: Sequence[Row]) -> None:
        for arch, row in zip(archs, past, strict=True):
            if not np.array_equal(self._arch(row), arch):
                raise NasplugError(
                    f"{self.directory.path} does not replay: trial {row.number} was another arch. "
                    "The method, its version or its inputs have changed"
                )

    def _tell(self, trials: Trials, rows: Rows, past: Sequence[Row]) -> None:
        nan = float("nan")
        trials.repeats[rows] = [row.repeat for row in past]
        trials.notes |= {int(r): row.notes for r, row in zip(rows, past, strict=True) if row.notes}
        values, reports, costs = (
            [nan if x is None else x for x in column]
            for column in zip(*((r.value, r.report, r.cost) for r in past), strict=True)
        )
        names = dict.fromkeys(name for row in past for name in row.metrics)
        trials.tell(
            rows, values=values, reports=reports, costs=costs,
            metrics={name: [row.metrics.get(name, nan) for row in past] for name in names},
            state=np.array([row.state for row in past]),
        )  # fmt: skip
        self.search.elapsed = max(row.elapsed for row in past)

    def _write(self, trials: Trials, rows: Rows) -> None:
        if self._answering:
            return
        for number in trials.numbers[rows].tolist() if self._past else ():
            self._past.pop(number, None)  # scored again, by a method that trains what it scores
        self.directory.journal.append(trials, rows, self.search.elapsed)
