"""A worker: asks the study for trials, and searches with each for every seed."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from nasplug.errors import NasplugError
from nasplug.kernel.method import Method
from nasplug.kernel.problem import Problem
from nasplug.kernel.registry import registry
from nasplug.kernel.search import Search
from nasplug.kernel.space import Space
from nasplug.run.api import make_search, name_of, shrunk
from nasplug.run.by_name import by_name
from nasplug.run.problem import described
from nasplug.tuning.searches import Record, Searches, describe
from nasplug.tuning.space import HyperparameterSpace, narrowed
from nasplug.tuning.storage import Roll, counted, next_position

POLL = 0.5  # seconds between looks at a study whose last trials others work on


class TrialFailed(Exception):  # noqa: N818 - of this trial, not of the study
    """A search has ended with an error, or the trial is one more than are wanted."""


class Unfinished(BaseException):
    """Something else has ended the trial; Optuna lets pass what is no Exception, so that the
    trial has not failed and can wait again."""

    def __init__(self, reason: BaseException) -> None:
        self.reason = reason


@dataclass(frozen=True)
class Task:
    """What is tuned, and how it is measured; every worker of the study holds the same."""

    method: str | type[Method]
    problem: Mapping[str, Any]  # what `described` is told
    search: Mapping[str, Any]  # what `Search` is told: the budget ...
    params: Sequence[str] | None
    fixed: Mapping[str, Any]
    objectives: Sequence[str]
    trials: int
    seed: int
    seeds: Sequence[int]  # of the searches, the same for every trial: comparisons are paired
    sampler: str
    pruner: str
    fidelity: tuple[int, int] | None = None

    @property
    def method_name(self) -> str:
        return name_of(self.method) if isinstance(self.method, str) else self.method.__name__

    @property
    def method_class(self) -> type[Method]:
        found = self.method
        return registry().get("method", found) if isinstance(found, str) else found

    def hyperparameters(self, space: Space) -> HyperparameterSpace:
        declared, ranges = self.method_class.declared(), self.method_class.ranges(space)
        declared |= {name: one for name, one in ranges.items() if name not in self.fixed}
        for name, one in declared.items():
            if one.at_most and one.at_most not in declared:  # a subclass has given it a value
                declared[name] = narrowed(one, high=getattr(self.method_class, one.at_most))
            parent, _, value = one.when.partition("=")
            if parent and parent not in declared:  # the same: it matters always, or never
                given = str(getattr(self.method_class, parent)).lower() == value.lower()
                declared[name] = replace(declared[name], when="", tunable=one.tunable and given)
        return HyperparameterSpace(declared, self.params, self.fixed)

    def make_problem(self, seed: int) -> Problem:
        scores_itself = hasattr(self.method_class, "evaluate")
        problem = described(**self.problem, seed=seed, scores_itself=scores_itself)
        problem.reach(self.fidelity)
        return problem

    def make_search(
        self, problem: Problem, hyperparameters: Mapping[str, Any], seed: int
    ) -> Search:
        method, options = self.method_class(**{**self.fixed, **hyperparameters}), {**self.search}
        if isinstance(options["within"], Path | str):
            options["within"] = shrunk(problem.space, options["within"])
        return make_search(problem, method, self.method_name, seed=seed, **options)

    def make_sampler(self, position: int, name: str = "") -> optuna.samplers.BaseSampler:
        """The sampler of one trial and hyperparameter, seeded by the study's seed, the position of
        the trial and the name.

        So what a trial is offered depends on the finished trials, and not on which process takes
        it or whether the study was interrupted before, be it between two hyperparameters.
        """
        seed = np.random.SeedSequence((self.seed, position, *name.encode())).generate_state(1)[0]
        return by_name(optuna.samplers, "Sampler", self.sampler, seed=int(seed))

    def make_pruner(self) -> optuna.pruners.BasePruner:
        pruner = by_name(optuna.pruners, "Pruner", self.pruner, n_warmup_steps=1)
        several = len(self.objectives) > 1  # Optuna prunes single objectives only
        return optuna.pruners.NopPruner() if several else pruner


class Worker:
    """Runs trials of a study, one after the other, until as many as are wanted have ended."""

    def __init__(
        self, task: Task, storage: optuna.storages.BaseStorage, url: str, folder: Path
    ) -> None:
        self.task, self.name = task, f"worker-{uuid.uuid4().hex[:12]}"
        self.study = optuna.load_study(
            study_name=folder.name, storage=storage, pruner=task.make_pruner()
        )
        self.roll = Roll(self.study, storage, url, folder)
        self.objective = Objective(task, Searches(folder / "searches.jsonl"))

    def work(self, watch: Callable[[], None] = lambda: None) -> None:
        """Run trials until none is left that could be taken; `watch` is called after each."""
        with self.roll.presence(self.name):
            try:
                while True:
                    if self._run_next():
                        watch()
                    elif self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                        time.sleep(POLL)  # it is to be begun again, if its worker dies
                    else:
                        return
            except Unfinished as end:
                self._give_back()
                if isinstance(end.reason, ImportError):  # samplers import late what they need
                    raise NasplugError(f"{self.task.sampler}: {end.reason}") from None
                raise end.reason from None

    def _run_next(self) -> bool:
        """Run a trial; False if all that are wanted have been begun."""
        self.roll.folder.stat()  # if it has gone away, a lock would create it
        with self.roll.turn:  # until the trial has been asked for
            self.roll.reclaim()
            position = next_position(self.study, self.task.trials)
            if position is None:
                return False
            self.study.sampler = self.task.make_sampler(position)
            # The machine may sleep, and another worker take the trial over.
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                self.study.optimize(self._run, n_trials=1, catch=(TrialFailed,))
        return True

    def _run(self, trial: optuna.Trial) -> list[float]:
        try:
            trial.set_user_attr("worker", self.name)
            position = [one.number for one in counted(self.study)].index(trial.number)
            if position >= self.task.trials:
                trial.set_user_attr("surplus", True)
                raise TrialFailed("another machine was faster")
            self.roll.turn.release()
            return self.objective(trial, position)
        except (TrialFailed, optuna.TrialPruned, optuna.exceptions.UpdateFinishedTrialError):
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise Unfinished(error) from None

    def _give_back(self) -> None:
        """Let the trial wait again in which this worker was interrupted."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("worker") == self.name:
                self.roll.put_back(trial, limit=None)


class Objective:
    """One trial of the study: a search for each seed, given up where the pruner says so."""

    def __init__(self, task: Task, searches: Searches) -> None:
        self.task, self.searches = task, searches
        self.paired = isinstance(task.make_pruner(), optuna.pruners.WilcoxonPruner)
        self._problems: dict[int, Problem] = {}  # an evaluator holds nothing of a search
        self.space = task.hyperparameters(self._problem(task.seeds[0]).space)

    def __call__(self, trial: optuna.Trial, position: int) -> list[float]:
        def reseed(name: str) -> None:
            trial.study.sampler = self.task.make_sampler(position, name)

        hyperparameters = self.space.suggest(trial, before=reseed)
        # Of a trial that was interrupted, whether to prune it is decided from there on.
        told = len(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        done: list[Record] = []
        for step, seed in enumerate(self.task.seeds):
            done.append(self._search(trial, hyperparameters, seed))
            means = np.mean([record["objectives"] for record in done], axis=0).tolist()
            if len(means) > 1 or step + 1 < told:
                continue
            if step == told:
                # The Wilcoxon pruner compares seed by seed, the others what is known so far.
                trial.report(done[-1]["objectives"][0] if self.paired else means[0], step)
                told += 1
            if step + 1 < len(self.task.seeds) and trial.should_prune():
                self._end(trial, done, "pruned")
                raise optuna.TrialPruned
        self._end(trial, done, "complete")
        return means

    def _search(self, trial: optuna.Trial, hyperparameters: dict[str, Any], seed: int) -> Record:
        """A search, or what is known of the same one."""
        record = self.searches.find(hyperparameters, seed)
        if record is None:
            start = time.time()
            about = {"hyperparameters": hyperparameters, "seed": seed}
            try:
                problem = self._problem(seed)
                selection = self.task.make_search(problem, hyperparameters, seed).run()
            except NasplugError as error:
                self._append(trial, {**about, "start": start, "error": str(error)})
                trial.set_user_attr("error", str(error))
                raise TrialFailed(str(error)) from error
            record = {**about, **describe(selection, self.task.objectives)}
        self._append(trial, record)
        return record

    def _problem(self, seed: int) -> Problem:
        if seed not in self._problems:
            self._problems[seed] = self.task.make_problem(seed)
        return self._problems[seed]

    def _append(self, trial: optuna.Trial, record: Record) -> None:
        self.searches.append({**record, "trial": trial.number, "key": uuid.uuid4().hex})

    def _end(self, trial: optuna.Trial, done: Sequence[Record], state: str) -> None:
        reports = [record["report"] for record in done]
        summary = {
            "state": state,
            "objectives": [record["objectives"] for record in done],
            "report": None if None in reports else float(np.mean(reports)),
        }
        trial.set_user_attr("measured", summary)
        self.searches.append({"ended": trial.number, "time": time.time(), **summary})
