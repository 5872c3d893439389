"""Pruning: hopeless trials are given up, as one of Optuna's pruners says.

It decides by Optuna's own study, in memory, in which trial n is trial n of the search.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.pruners import PercentilePruner
from optuna.study import StudyDirection
from optuna.trial import TrialState

from nasplug.errors import NasplugError
from nasplug.evaluators.function import FunctionEvaluator
from nasplug.kernel.search import Search
from nasplug.kernel.trial import State, Trial, Trials
from nasplug.run.by_name import by_name

STATES = {
    State.COMPLETE: TrialState.COMPLETE, State.PRUNED: TrialState.PRUNED,
    State.FAILED: TrialState.FAIL,
}  # fmt: skip


class Pruner:
    """What `Trial.should_prune` asks; it may be sent to a worker.

    It learns of trials in the order of their numbers, when it is asked for the first time after
    they have ended: so what is pruned does not depend on which of those at once ended first.
    """

    def __init__(self, search: Search, pruner: Any) -> None:
        scorer = search.problem.evaluator
        if not (isinstance(scorer, FunctionEvaluator) and scorer.reports):
            raise NasplugError(
                f"prune is for trials that report while they are scored, as evaluate(arch, trial) "
                f"by trial.report(value, step); {search.problem.name} has none"
            )
        chosen = by_name(optuna.pruners, "Pruner", pruner) if isinstance(pruner, str) else pruner
        if not isinstance(chosen, optuna.pruners.BasePruner):
            raise NasplugError(f"prune is one of Optuna's pruners or its name, got {pruner!r}")
        if search.objectives is not None and not isinstance(chosen, PercentilePruner):
            raise NasplugError(
                f"prune={pruner!r} compares single values; several objectives are pruned by rank: "
                "prune='median' or 'percentile(percentile=25)'"
            )
        self.ranked: Callable[[Any], Any] | None = None  # of objectives' values; workers get it too
        if search.objectives is not None:
            self.ranked = partial(search.objectives.ranks, signs=search.objectives.signs)
        direction = StudyDirection.MAXIMIZE if search.maximize else StudyDirection.MINIMIZE
        with quiet():
            self.study = optuna.create_study(
                study_name="nasplug", direction=direction, pruner=chosen,
                sampler=optuna.samplers.RandomSampler(0),
            )  # fmt: skip
        self.begun: dict[int, optuna.Trial] = {}  # trials that have not ended
        self.asked = 0
        self.ended: dict[int, tuple[Mapping[str, Any], State, float]] = {}  # not learned yet
        search.listeners.append(self._hear)

    def __call__(self, trial: Trial) -> bool:
        if self.ranked is not None:
            return self._outranked(trial, self.ranked)
        self._learn()
        found = self._trial(trial.number)
        for step in trial.intermediate_values.keys() - self._known(found):
            found.report(trial.intermediate_values[step], step)
        return bool(trial.intermediate_values) and found.should_prune()

    def _hear(self, trials: Trials, rows: npt.NDArray[np.intp]) -> None:
        for row in rows[~trials.repeats[rows]].tolist():
            reported = trials.notes.get(row, {}).get("intermediate", {})
            state = State(int(trials.states[row]))
            self.ended[int(trials.numbers[row])] = reported, state, float(trials.values[row])

    def _outranked(self, trial: Trial, ranked: Callable[[Any], Any]) -> bool:
        """Whether Optuna's pruner would stop a trial whose value at its last step were the number
        of its front among all trials that have reported that step."""
        if not trial.intermediate_values:
            return False
        step = max(trial.intermediate_values)
        told = [
            (reported[str(step)], state)
            for number, (reported, state, _) in sorted(self.ended.items())
            if str(step) in reported and number < trial.number
        ]
        points = [*(values for values, _ in told), trial.intermediate_values[step]]
        try:
            ranks = ranked(points).tolist()
        except ValueError:
            raise NasplugError(
                f"trial.report({points[-1]!r}, {step}): with several objectives it takes as many "
                "numbers, in their order"
            ) from None
        with quiet():
            study = optuna.create_study(
                direction="minimize", pruner=self.study.pruner, sampler=self.study.sampler
            )
        for rank, (_, state) in zip(ranks, told, strict=False):
            value = rank if state == State.COMPLETE else None
            study.add_trial(
                optuna.create_trial(
                    state=STATES[state], value=value, intermediate_values={step: rank}
                )
            )
        asked = study.ask()
        asked.report(ranks[-1], step)
        return asked.should_prune()

    def _learn(self) -> None:
        for number, (reported, state, value) in sorted(self.ended.items()):
            trial = self._trial(number)
            values = {int(step): np.nan if x is None else x for step, x in reported.items()}
            for step in () if self._known(trial) else values:  # it was asked about elsewhere
                trial.report(values[step], step)
                trial.should_prune()  # which notes the rungs that it reached
            complete = state == State.COMPLETE
            self.study.tell(trial, value if complete else None, state=STATES[state])
            del self.begun[number]
        self.ended.clear()

    def _trial(self, number: int) -> optuna.Trial:
        """Optuna's trial of this number; those before it that have not ended run, for Optuna."""
        while self.asked <= number:
            self.begun[self.asked] = self.study.ask()
            self.asked += 1
        return self.begun[number]

    def _known(self, trial: optuna.Trial) -> Mapping[int, float]:
        """The steps and values that Optuna has heard of."""
        return self.study.get_trials(deepcopy=False)[trial.number].intermediate_values

    def __getstate__(self) -> dict[str, Any]:
        if self.ranked is None:
            self._learn()
        return self.__dict__


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna's log and warnings are for those who call it themselves."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
