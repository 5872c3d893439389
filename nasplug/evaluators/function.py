"""The user's own function as an evaluator."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nasplug.errors import NasplugError
from nasplug.hookspecs import hookimpl
from nasplug.space import Space
from nasplug.subspace import Region
from nasplug.trial import State, Trial, TrialPruned, Trials

if TYPE_CHECKING:
    from nasplug.search import Search


class FunctionEvaluator:
    """Scores one arch at a time by calling ``function(arch)`` or ``function(arch, trial)``.

    The arch comes as {decision: choice}. The function returns a number, or a mapping with
    "value" and optionally "report", "cost" (seconds) and further numbers. If it raises, the
    trial has failed, with the error noted. Cost is the time it took unless it says otherwise.
    """

    reward = "value"
    report = "report"

    def __init__(self, space: Space, function: Callable[..., Any], maximize: bool = True) -> None:
        if not callable(function):
            raise NasplugError(f"evaluate must be a function of an arch, got {function!r}")
        self.region: Region = space
        self.function = function
        self.maximize = maximize
        self.takes_trial = len(_positional(function)) >= 2

    @hookimpl
    def evaluate(self, search: Search, candidates: Trials) -> Trials:
        for row in candidates.waiting.tolist():
            self.score(search, candidates, row)
        return candidates

    def score(self, search: Search, trials: Trials, row: int) -> None:
        """Score one row; whatever goes wrong in the function is that row's failure."""
        trial: Trial = trials[row]
        trial.pruner = search.pruner
        start = time.perf_counter()
        state = State.COMPLETE
        try:
            arch = trial.params
            answer = self.function(arch, trial) if self.takes_trial else self.function(arch)
            result = dict(answer) if isinstance(answer, Mapping) else {"value": answer}
            numbers = {str(name): float(number) for name, number in result.items()}
            if "value" not in numbers:
                raise NasplugError('the function returned a mapping without "value"')
        except TrialPruned:
            values = trial.intermediate_values
            numbers = {"value": values[max(values)] if values else np.nan}
            state = State.PRUNED
        except Exception as error:
            trials.notes[row] = trial.user_attrs
            trials.fail(row, f"{type(error).__name__}: {error}")
            return
        if trial.user_attrs:
            trials.notes[row] = trial.user_attrs
        seconds = time.perf_counter() - start
        trials.tell(
            row,
            values=numbers.pop("value"),
            reports=numbers.pop("report", np.nan),
            costs=numbers.pop("cost", seconds),
            metrics=numbers,
            state=state,
        )


def _positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some builtins have no signature
        return []
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
