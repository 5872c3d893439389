"""Trials: what is scored, as a table with one row per arch. Trial: one row of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs, Space
from nasplug.kernel.tree import jsonable

if TYPE_CHECKING:
    import torch

Column = npt.NDArray[Any]
Rows = npt.NDArray[np.intp]


class State(IntEnum):
    """Optuna's vocabulary. A waiting trial still needs its value."""

    WAITING = 0
    COMPLETE = 1
    PRUNED = 2
    FAILED = 3


class Trials:
    """A table of trials of a space; every column has length n.

    archs: (n, d) integers.
    values: the reward. reports: the report metric, for people, never for the method.
    costs: seconds, as the benchmark states them or as measured. All three NaN if unknown.
    states: see `State`.
    numbers: trial numbers; -1 for a repeat that does not count as a trial.
    rounds: the round of the search loop that proposed it.
    fidelities: up to which it is scored, such as epochs; 0 where the evaluator has none.
    repeats: the arch had been scored before, and was answered from the cache.
    feasible: it keeps to the search's constraints.
    metrics: whatever else was measured, a column per name.
    notes: {row: {...}}, user attributes, intermediate values and errors of single rows.

    maximize: the direction of `values`. objectives: several, if `values` is not all that counts
    (`nasplug.run.objectives`). pruner: what a trial's ``should_prune()`` asks.
    checkpoints: the folder for what trials have trained, if there is one.
    on_tell: called with the table and the rows that have just been told.
    """

    columns = (
        "archs", "values", "reports", "costs", "states", "numbers", "rounds", "fidelities",
        "repeats", "feasible",
    )  # fmt: skip

    def __init__(
        self,
        space: Space,
        archs: Archs,
        maximize: bool = True,
        first: int = 0,
        round: int = 0,
        fidelities: npt.ArrayLike = 0,
    ) -> None:
        n = len(archs)
        self.space, self.maximize = space, maximize
        self.archs = archs
        self.values, self.reports, self.costs = np.full((3, n), np.nan)
        self.states = np.zeros(n, dtype=np.int8)
        self.numbers = np.arange(first, first + n)
        self.rounds = np.full(n, round)
        self.fidelities = np.full(n, fidelities, dtype=np.int64)
        self.repeats = np.zeros(n, dtype=bool)
        self.feasible = np.ones(n, dtype=bool)
        self.metrics: dict[str, Column] = {}
        self.notes: dict[int, dict[str, Any]] = {}
        self.objectives: Any = None
        self.pruner: Callable[[Trial], bool] | None = None
        self.checkpoints: Path | None = None
        self.on_tell: Callable[[Trials, Rows], None] | None = None

    @property
    def waiting(self) -> Rows:
        """The rows that an evaluator has to score."""
        return np.flatnonzero(self.states == State.WAITING.value)  # numpy is slow with enums

    @property
    def utilities(self) -> npt.NDArray[np.float64]:
        """(n,) values with higher always better; of several objectives one number, as they are
        weighed now. NaN where unknown."""
        if self.objectives is not None:
            worth: npt.NDArray[np.float64] = self.objectives.utilities(self)
            return worth
        return self.values if self.maximize else -self.values

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """(n,) utilities; -inf where failed or against a constraint."""
        utilities = self.utilities
        good = (self.states == State.COMPLETE.value) & self.feasible & np.isfinite(utilities)
        return np.where(good, utilities, -np.inf)

    @property
    def ranks(self) -> npt.NDArray[np.float64]:
        """By what is selected: the scores, or, if fidelities differ, numbers that are higher for a
        higher fidelity and then for a higher score; -inf as the scores."""
        return ranked(self.scores, self.fidelities)

    @property
    def final_scores(self) -> npt.NDArray[np.float64]:
        """(n,) by what is selected in the end: the ranks, or where a trial of several objectives
        stands among the others."""
        return self.ranks if self.objectives is None else self.objectives.final(self)

    @property
    def scored(self) -> tuple[Archs, npt.NDArray[np.float64]]:
        """(n, d) the archs that have a value, feasible or not, and (n,) their utilities."""
        utilities = self.utilities
        rows = np.flatnonzero((self.states == State.COMPLETE.value) & np.isfinite(utilities))
        return self.archs[rows], utilities[rows]

    def tell(
        self,
        rows: npt.ArrayLike | None = None,
        *,
        values: npt.ArrayLike,
        reports: npt.ArrayLike | None = None,
        costs: npt.ArrayLike | None = None,
        metrics: Mapping[str, npt.ArrayLike] | None = None,
        state: State | npt.ArrayLike = State.COMPLETE,
    ) -> Trials:
        """Score some rows (by default all that wait); a value that is not finite has failed, unless
        the trial was pruned before it had one, and such a metric is not known.

        The rows are journaled at once, so that what took long to score is never lost. NasplugError
        if a row was told before, or if its notes cannot be written as JSON.
        """
        rows = self.waiting if rows is None else np.atleast_1d(np.asarray(rows, dtype=np.intp))
        if not len(rows):
            return self
        if self.states[rows].any():
            told = rows[self.states[rows] != State.WAITING][0]
            raise NasplugError(f"row {told} of the trials was told already: each is scored once")
        for row in self.notes and rows.tolist():
            if row in self.notes:
                notes = self.notes[row].items()
                self.notes[row] = {key: jsonable(x, f"note {key!r} of a trial") for key, x in notes}
        self.values[rows] = values
        if reports is not None:
            self.reports[rows] = reports
        if costs is not None:
            self.costs[rows] = costs
        for name, column in (metrics or {}).items():
            self.metric(name)[rows] = np.where(np.isfinite(column), column, np.nan)
        self.states[rows] = state.value if isinstance(state, State) else state
        bad = ~np.isfinite(self.values[rows]) & (self.states[rows] != State.PRUNED.value)
        self.states[rows[bad]] = State.FAILED.value
        for row in rows[bad & ~self.repeats[rows]].tolist():
            self.notes.setdefault(row, {}).setdefault("error", "the value is not finite")
        if self.on_tell is not None:
            self.on_tell(self, rows)
        return self

    def fail(self, row: int, error: str) -> None:
        """Mark one row as failed, saying why."""
        self.notes.setdefault(row, {})["error"] = error
        self.tell(row, values=np.nan)

    def copy(self, rows: Column, source: Trials, source_rows: Column) -> None:
        """Take over what is known of archs scored before, as repeats of theirs."""
        for name in ("values", "reports", "costs", "states", "feasible"):
            getattr(self, name)[rows] = getattr(source, name)[source_rows]
        for name, column in source.metrics.items():
            self.metric(name)[rows] = column[source_rows]
        self.repeats[rows] = True

    def select(self, rows: Rows) -> Trials:
        """Some rows, as a table of their own."""
        chosen = Trials(self.space, self.archs[rows], self.maximize)
        chosen.objectives = self.objectives
        for name in self.columns:
            setattr(chosen, name, getattr(self, name)[rows])
        chosen.metrics = {name: column[rows] for name, column in self.metrics.items()}
        chosen.notes = {i: self.notes[r] for i, r in enumerate(rows.tolist()) if r in self.notes}
        return chosen

    def truncate(self, n: int) -> None:
        """Keep the first n rows only (the budget or the time allows no more)."""
        for name in self.columns:
            setattr(self, name, getattr(self, name)[:n])
        self.metrics = {name: column[:n] for name, column in self.metrics.items()}

    def metric(self, name: str) -> Column:
        """(n,) a column of metrics; NaN at first."""
        if name not in self.metrics:
            self.metrics[name] = np.full(len(self), np.nan)
        return self.metrics[name]

    def __len__(self) -> int:
        return len(self.archs)

    def __getitem__(self, row: int) -> Trial:
        row = range(len(self))[row]
        return Trial(
            number=int(self.numbers[row]),
            arch=self.archs[row].copy(),
            space=self.space,
            value=float(self.values[row]),
            report_value=float(self.reports[row]),
            cost=float(self.costs[row]),
            state=State(int(self.states[row])),
            round=int(self.rounds[row]),
            fidelity=int(self.fidelities[row]),
            metrics={name: float(column[row]) for name, column in self.metrics.items()},
            user_attrs=dict(self.notes.get(row, {})),
        )

    def __iter__(self) -> Iterator[Trial]:
        return (self[row] for row in range(len(self)))

    def to_dict(self, rows: slice = slice(None)) -> dict[str, list[Any]]:
        """{column: list}, with each decision's choice spelled out; ready for a DataFrame."""
        archs = self.archs[rows]
        table: dict[str, list[Any]] = {
            "number": self.numbers[rows].tolist(),
            "round": self.rounds[rows].tolist(),
            "state": [State(s).name.lower() for s in self.states[rows].tolist()],
            "arch": [self.space.to_str(arch) for arch in archs],
            "value": self.values[rows].tolist(),
            "report": self.reports[rows].tolist(),
            "cost": self.costs[rows].tolist(),
        }
        if self.fidelities.any():
            table["fidelity"] = self.fidelities[rows].tolist()
        for name, column in self.metrics.items():
            table.setdefault(name, column[rows].tolist())
        for i, (name, choices) in enumerate(self.space.decisions.items()):
            table[f"params.{name}"] = [choices[c] for c in archs[:, i]]
        return table

    def __repr__(self) -> str:
        failed = int((self.states == State.FAILED).sum())
        return f"<Trials of {self.space.name}: {len(self)}{f', {failed} failed' if failed else ''}>"


def ranked(scores: Column, fidelities: Column) -> Column:
    """(n,) scores; if the fidelities of those that are finite differ, numbers that are higher for a
    higher fidelity and then for a higher score."""
    good = np.isfinite(scores)
    if len(np.unique(fidelities[good])) > 1:
        pairs = np.stack([fidelities[good], scores[good]])
        scores[good] = np.unique(pairs, axis=1, return_inverse=True)[1].ravel()
    return scores


class History(Trials):
    """All trials of a search, row = trial number; grows by doubling, so appending is cheap."""

    def __init__(self, space: Space, maximize: bool) -> None:
        super().__init__(space, np.empty((0, space.d), space.dtype), maximize)
        self._store = {name: getattr(self, name) for name in self.columns}
        self._metric_store: dict[str, Column] = {}

    def write(self, batch: Trials, rows: Column) -> None:
        """Put some rows of a batch where their numbers say."""
        numbers = batch.numbers[rows]
        n = max(len(self), int(numbers[-1]) + 1, int(numbers.max()) + 1)
        if n > len(self._store["values"]):
            self._grow(max(64, 2 * n))
        if n > len(self):
            for name in self.columns:
                setattr(self, name, self._store[name][:n])
            self.metrics = {name: column[:n] for name, column in self._metric_store.items()}
        for name in self.columns:
            self._store[name][numbers] = getattr(batch, name)[rows]
        for name, column in batch.metrics.items():
            if name not in self._metric_store:
                self._metric_store[name] = np.full(len(self._store["values"]), np.nan)
                self.metrics[name] = self._metric_store[name][:n]
            self._metric_store[name][numbers] = column[rows]
        for row in batch.notes and rows.tolist():
            if row in batch.notes:
                self.notes[int(batch.numbers[row])] = batch.notes[row]

    def _grow(self, capacity: int) -> None:
        for store in (self._store, self._metric_store):
            for name, old in store.items():
                new = np.zeros((capacity, *old.shape[1:]), old.dtype)
                if new.dtype == np.float64:
                    new[len(old) :] = np.nan
                new[: len(old)] = old
                store[name] = new
        for name in self.columns:
            setattr(self, name, self._store[name][: len(self)])
        self.metrics = {name: column[: len(self)] for name, column in self._metric_store.items()}


@dataclass
class Trial:
    """One scored arch, as Optuna would show it.

    While it is being scored, an evaluator that trains may ``report(value, step)`` and ask
    ``should_prune()``. One that has a fidelity trains until `fidelity`, and keeps what it has
    trained in `checkpoint`: if that is there, it is this arch's at a lower fidelity, to go on from.
    """

    number: int
    arch: Archs
    space: Space
    value: float = np.nan
    report_value: float = np.nan
    cost: float = np.nan
    state: State = State.WAITING
    round: int = 0
    fidelity: int = 0
    checkpoint: Path | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    pruner: Callable[[Trial], bool] | None = field(default=None, repr=False)
    trained: Callable[[Archs], torch.nn.Module] | None = field(default=None, repr=False)

    @property
    def params(self) -> dict[str, Any]:
        """{decision: choice}."""
        return self.space.to_dict(self.arch)

    @property
    def intermediate_values(self) -> dict[int, Any]:
        """{step: value}, as reported; of several objectives a list."""
        steps = self.user_attrs.get("intermediate", {}).items()
        return {int(step): np.nan if value is None else value for step, value in steps}

    def report(self, value: float | Sequence[float], step: int) -> None:
        """Note an intermediate value, such as the accuracy after an epoch; of several objectives
        one value of each, in their order."""
        said = [float(x) for x in value] if isinstance(value, Sequence) else float(value)
        self.user_attrs.setdefault("intermediate", {})[str(step)] = said

    def should_prune(self) -> bool:
        """Whether to give this trial up now (raise `TrialPruned` then)."""
        return self.pruner is not None and self.pruner(self)

    def set_user_attr(self, key: str, value: Any) -> None:
        """Keep something with the trial that JSON can hold, numpy's numbers and arrays too."""
        self.user_attrs[key] = jsonable(value, f"user attribute {key!r}")

    def build(self, **sizes: int) -> torch.nn.Module:
        """The network that was scored, freshly initialised; of another size, if one is given."""
        return self.space.sized(**sizes).build(self.arch)

    def inherit(self) -> torch.nn.Module:
        """The network with the weights that scored it: of a supernet, or of its own training."""
        if self.trained is None:
            raise NasplugError(f"{self} has no weights to inherit, as nothing was trained: build()")
        return self.trained(self.arch)

    def __str__(self) -> str:
        return self.space.to_str(self.arch)


class TrialPruned(Exception):  # noqa: N818 - Optuna's name
    """Raised by an evaluator whose trial should not be trained on."""
