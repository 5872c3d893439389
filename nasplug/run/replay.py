"""Replay: how a search that was interrupted goes on with the same trials as if it never had been.

What was scored is in the journal. A method whose own work is light runs again from the start, and
the journal answers what it proposes; one that keeps a state goes on from its last checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.hookspecs import hookimpl
from nasplug.kernel.search import Search
from nasplug.kernel.subspace import Region
from nasplug.kernel.trial import Trials
from nasplug.run.directory import FINISHED, RunDirectory, misfit

Rows = npt.NDArray[np.intp]


class Replay:
    """A plugin of a search that journals every trial, and on resume answers from the journal."""

    def __init__(self, search: Search, directory: RunDirectory) -> None:
        self.search, self.directory = search, directory
        self._answering = False
        self._past = directory.journal.past(search.space, search.budget)
        self._open = self._past.trials.states > 0  # (n,) what is not replayed yet
        self._left = int(self._open.sum())
        self._sum = 0  # of the checksums of all trials of this search
        status = directory.status()
        if not status and (directory.path / "status.json").exists():
            raise NasplugError(
                f"{directory.path} is damaged: its status.json is not as it was written; put a "
                "copy of it back, or delete it to search on until the budget or the time is spent"
            )
        finished = status.get("state") == "finished" and not misfit(status, FINISHED)
        self._end = status if finished else None
        self._appended = False  # something that was scored now is in the journal
        search.folder = directory.path
        if search.asynchronous:
            self._take_up()
        elif state := directory.load_checkpoint(lambda state: directory.fits(state, self._past)):
            self._restore(np.arange(state["trials"]))
            search.load_state(state)
        # Until then no clock: what was scored is kept, however long it takes to replay.
        self._max_seconds, search.max_seconds = search.max_seconds, None
        self._go_on()
        search.listeners.insert(0, self._write)
        search.pm.register(self, "journal")

    @property
    def table(self) -> str:
        """The digest of the trials.csv that has all trials of this search already, or ''."""
        return "" if self._end is None or self._appended else str(self._end["table"])

    @hookimpl(wrapper=True)
    def evaluate(self, candidates: Trials | Region) -> Generator[None, Trials, Trials]:
        if self._left and isinstance(candidates, Trials):
            rows = candidates.waiting
            rows = rows[self._known(candidates.numbers[rows])]
            if len(rows):
                numbers = candidates.numbers[rows]
                self._check(candidates.select(rows), numbers)
                self._answering = True
                self._tell(candidates, rows, numbers)
                self._answering = False
                if len(left := candidates.waiting):  # what follows was not scored
                    if self.search.at_once == 1 and self._time_was_up():
                        candidates.truncate(left[0])
                    else:
                        self._go_on()
        return (yield)

    @hookimpl(trylast=True)
    def update(self) -> None:
        """A checkpoint after each round of a method that keeps a state."""
        self._go_on()
        if (state := self.search.state()) is not None:
            self.directory.journal.sync()  # a checkpoint must not outlive the trials it is after
            trials = len(self.search.trials)
            self.directory.save_checkpoint(self.directory.about(trials, self._sum) | state)

    def _go_on(self) -> None:
        """Once all is replayed: a search that had finished ends in the round in which it did."""
        if self._left:
            return
        self.__dict__.pop("_past", None)  # it may be large
        if self._end is None:
            self.search.max_seconds = self._max_seconds
        elif self.search.asynchronous or self.search.round >= self._end["rounds"]:
            self.search.ended = self._end["seconds"]
            self.search.stop(self._end["stopped"])

    def _time_was_up(self) -> bool:
        """Whether the search had ended, or would have, in the midst of this round."""
        search, end = self.search, self._end
        last = end if end and search.round + 1 >= end["rounds"] else None
        seconds = last["seconds"] if last else search.elapsed
        return bool(seconds >= (self._max_seconds or math.inf))

    def _restore(self, numbers: Rows) -> Trials:
        """Take over these trials."""
        search, past = self.search, self._past.trials
        trials = search.candidates(past.archs[numbers], past.fidelities[numbers])
        trials.numbers, trials.rounds = numbers, past.rounds[numbers]
        keys, fidelities = search.keys(trials.archs), trials.fidelities.tolist()
        for number, key, fidelity in zip(numbers.tolist(), keys, fidelities, strict=True):
            search.cache.numbers[fidelity].setdefault(key, number)
        self._tell(trials, np.arange(len(numbers)), numbers)
        return trials

    def _take_up(self) -> None:
        """An asynchronous search, whose trials depend on when others end, is no replay: its method
        learns from all that was scored at once. What was out when it ended is forgotten."""
        if not self._left:
            return
        search, there = self.search, self._open.copy()
        trials = self._restore(np.flatnonzero(there))
        search.cache.gaps = iter(np.flatnonzero(~there).tolist())
        search.round = int(trials.rounds.max()) + 1
        search.rng = np.random.default_rng((search.seed, len(trials)))
        search.pm.hook.update(search=search, trials=trials)

    def _known(self, numbers: Rows) -> npt.NDArray[np.bool_]:
        """Which trials are in the journal and not replayed yet."""
        known = (numbers >= 0) & (numbers < len(self._open))
        known[known] = self._open[numbers[known]]
        return known

    def _check(self, trials: Trials, numbers: Rows) -> None:
        past = self._past.trials
        same = (trials.archs == past.archs[numbers]).all(axis=1)
        same &= trials.fidelities == past.fidelities[numbers]
        if not same.all():
            raise NasplugError(
                f"{self.directory.path} does not replay: trial {numbers[np.argmin(same)]} was "
                "another arch or at another fidelity. The method, its version or its inputs have "
                "changed"
            )

    def _tell(self, trials: Trials, rows: Rows, numbers: Rows) -> None:
        past = self._past.trials
        trials.repeats[rows] = past.repeats[numbers]
        for row, number in zip(rows.tolist(), numbers.tolist(), strict=True) if past.notes else ():
            if number in past.notes:
                trials.notes[row] = past.notes[number]
        columns = {name: column[numbers] for name, column in past.metrics.items()}
        trials.tell(
            rows, values=past.values[numbers], reports=past.reports[numbers],
            costs=past.costs[numbers], state=past.states[numbers],
            metrics={name: x for name, x in columns.items() if not np.isnan(x).all()},
        )  # fmt: skip
        self.search.elapsed = float(self._past.elapsed[numbers].max(initial=0.0))
        self._sum += int(self._past.checksums[numbers].sum())
        self._close(numbers)

    def _close(self, numbers: Rows) -> None:
        self._open[numbers] = False
        self._left -= len(numbers)

    def _write(self, trials: Trials, rows: Rows) -> None:
        if self._answering:
            return
        self._appended = True
        again = trials.numbers[rows]
        again = again[self._known(again)] if self._left else again[:0]
        self._close(again)  # scored again, by a method that trains what it scores
        self._sum += self.directory.journal.append(
            trials, rows, self.search.elapsed, again=len(again) > 0
        )
