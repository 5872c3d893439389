"""The user's own function as an evaluator."""

from __future__ import annotations

import inspect
import math
import os
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from nasplug.errors import NasplugError
from nasplug.evaluators.checkpoints import checkpointed
from nasplug.hookspecs import hookimpl
from nasplug.kernel.problem import Evaluator
from nasplug.kernel.search import Search
from nasplug.kernel.space import Space
from nasplug.kernel.subspace import Region
from nasplug.kernel.trial import State, Trial, TrialPruned, Trials

# Where code lies that is not the user's: in nasplug, in Python, in what is installed.
LIBRARIES = (str(Path(__file__).parents[1]), str(Path(os.__file__).parent), "<")
PACKAGES = "-packages"
DYNAMIC = "<dynamic-code>"  # cloudpickle's name for the file of a function


class FunctionEvaluator(Evaluator):
    """Scores one arch at a time by calling ``function(arch)`` or ``function(arch, trial)``.

    It is given the trial if it has a parameter named ``trial``, or a second one without a default.
    The arch comes as {decision: choice}. The function returns a number, or a mapping with
    "value" and optionally "report", "cost" (seconds) and further numbers. If it raises, the
    trial has failed, with the error noted. Cost is the time it took unless it says otherwise.

    With a fidelity it trains until ``trial.fidelity``, on from what is at ``trial.checkpoint`` if
    that exists, and keeps there, as one file, what it has trained.
    """

    reward = "value"
    report = "report"
    fidelity: tuple[str, int, int] | None = None

    def __init__(self, space: Space, function: Callable[..., Any], maximize: bool = True) -> None:
        if not callable(function):
            raise NasplugError(f"evaluate must be a function of an arch, got {function!r}")
        self.region: Region = space
        self.function = function
        self.maximize = maximize
        self.takes_trial = takes_trial(function)
        self.file = getattr(getattr(function, "__code__", None), "co_filename", DYNAMIC)

    @property
    def reports(self) -> bool:
        """Whether it is given the trial, and so may report while it scores."""
        return bool(self.takes_trial)

    def reach(self, low: int, high: int) -> None:
        """Score at fidelities from low to high."""
        if not self.takes_trial:
            raise NasplugError(
                "fidelity= is for a function that takes the trial, evaluate(arch, trial), and "
                "trains until trial.fidelity"
            )
        self.fidelity = (self.fidelity[0] if self.fidelity else "fidelity", low, high)

    @hookimpl
    def evaluate(self, search: Search | None, candidates: Trials) -> Trials:
        """Row by row, until the time of the search is up: what then waits is no trial."""
        for row in candidates.waiting.tolist():
            self.score(candidates, row)
            if search is not None and search.elapsed >= (search.max_seconds or math.inf):
                candidates.truncate(min(candidates.waiting, default=len(candidates)))
                break
        return candidates

    def score(self, trials: Trials, row: int) -> None:
        """Score one row; whatever goes wrong in the function is that row's failure."""
        trial: Trial = trials[row]
        trial.pruner = trials.pruner
        start = time.perf_counter()
        state = State.COMPLETE
        try:
            with checkpointed(trial, trials.checkpoints) if self.fidelity else nullcontext():
                answer = self._call(trial)
            result = dict(answer) if isinstance(answer, Mapping) else {"value": answer}
            numbers = {str(name): _number(number) for name, number in result.items()}
            if "value" not in numbers:
                raise NasplugError('the function returned a mapping without "value"')
        except TrialPruned:
            values = trial.intermediate_values
            last = values[max(values)] if values else np.nan
            numbers = {"value": np.nan if isinstance(last, list) else last}
            state = State.PRUNED
        except Exception as error:
            if os.environ.get("NASPLUG_TRACEBACK"):
                traceback.print_exception(error)
            trials.notes[row] = trial.user_attrs
            trials.fail(row, f"{type(error).__name__}: {error}{_place(error, self.file)}")
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

    def _call(self, trial: Trial) -> Any:
        arch = trial.params
        match self.takes_trial:
            case "trial":
                return self.function(arch, trial=trial)
            case 1:
                return self.function(arch, trial)
            case _:
                return self.function(arch)


def _number(answer: Any) -> float:
    if isinstance(answer, str | bytes):
        raise TypeError(f"the function returned text, {answer!r}, where a number is meant")
    return float(answer)


def _place(error: Exception, file: str) -> str:
    """`` (model.py, line 12)``: the last line of the user's own code on the way to an error.

    file: the function's, which is not known of one that has been sent to a worker.
    """
    frames = traceback.extract_tb(error.__traceback__)[1:]
    names = [(file if f.filename == DYNAMIC else f.filename, f.lineno) for f in frames]
    own = [place for place in names if not (place[0].startswith(LIBRARIES) or PACKAGES in place[0])]
    return " ({}, line {})".format(*own[-1]) if own else ""


def takes_trial(function: Callable[..., Any]) -> str | int:
    """The parameter that takes the trial: "trial", 1 for the second one, 0 for none."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some builtins have no signature
        return 0
    if any(p.name == "trial" and p.kind is not p.POSITIONAL_ONLY for p in parameters):
        return "trial"
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return int(len(positional) > 1 and positional[1].default is inspect.Parameter.empty)
