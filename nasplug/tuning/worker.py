"""A worker: takes the study's trials from the queue, and searches with each for every seed."""

from __future__ import annotations

import ast
import inspect
import multiprocessing
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from nasplug.errors import NasplugError, unknown
from nasplug.evaluators.function import FunctionEvaluator
from nasplug.hyperparameters import Method
from nasplug.plugins import registry
from nasplug.problem import Problem, problem
from nasplug.search import Search
from nasplug.space import Space
from nasplug.tuning import storage as stored
from nasplug.tuning.searches import Record, Searches, describe
from nasplug.tuning.space import HyperparameterSpace

POLL = 0.5  # seconds between looks at a queue in which nothing waits

# GridSampler refuses trials that were enqueued (brute force does the same without a list), and
# what PartialFixedSampler does, fixed hyperparameters do.
LEFT_OUT = ("GridSampler", "PartialFixedSampler")


class SearchFailed(Exception):  # noqa: N818 - of these hyperparameters, not of the study
    """A search ended with an error: its trial has failed."""


@dataclass(frozen=True)
class Task:
    """What is tuned, and how it is measured; every worker of the study holds the same."""

    method: str | type[Method]
    on: str | None
    space: Space | None
    evaluate: Callable[..., Any] | None
    direction: Literal["maximize", "minimize"]
    evaluator: str | None
    reward: str | None
    params: Sequence[str] | None
    fixed: Mapping[str, Any]
    budget: int
    objectives: tuple[str, ...]
    seed: int
    seeds: tuple[int, ...]  # of the searches, the same for every trial: comparisons are paired
    sampler: str
    pruner: str

    @property
    def method_name(self) -> str:
        return self.method if isinstance(self.method, str) else self.method.__name__

    @property
    def method_class(self) -> type[Method]:
        if not isinstance(self.method, str):
            return self.method
        cls: type[Method] = registry().get("method", self.method)
        return cls

    def hyperparameters(self, space: Space) -> HyperparameterSpace:
        declared, ranges = self.method_class.declared(), self.method_class.ranges(space)
        tuned = {name: one for name, one in ranges.items() if name not in self.fixed}
        return HyperparameterSpace({**declared, **tuned}, self.params, self.fixed)

    def problem(self, seed: int) -> Problem:
        if self.on is not None:
            return problem(self.on, self.evaluator, self.reward, seed=seed)
        if self.space is None or self.evaluate is None:
            raise NasplugError(
                'what to search? on="nb201/digits", or a space and an evaluate function'
            )
        maximize = self.direction == "maximize"
        scorer = FunctionEvaluator(self.space, self.evaluate, maximize)
        return Problem(self.space, "function", scorer, "function", maximize, self.space)

    def search(self, target: Problem, hyperparameters: Mapping[str, Any], seed: int) -> Search:
        method = self.method_class(**{**self.fixed, **hyperparameters})
        return Search(target, method, self.method_name, budget=self.budget, seed=seed)

    def queue(self, storage: optuna.storages.BaseStorage, name: str) -> stored.Queue:
        """The study, to take trials from."""
        return stored.Queue(name, storage, self.make_sampler(), self.make_pruner())

    def make_sampler(self) -> BaseSampler:
        return _SeededPerTrial(partial(made, optuna.samplers, "Sampler", self.sampler), self.seed)

    def make_pruner(self) -> BasePruner:
        pruner: BasePruner = made(optuna.pruners, "Pruner", self.pruner, n_warmup_steps=1)
        if len(self.objectives) > 1:  # Optuna prunes single objectives only
            return optuna.pruners.NopPruner()
        return pruner


def made(module: Any, kind: str, text: str, **preset: Any) -> Any:
    """One of Optuna's samplers or pruners by its name: "tpe", "median" ..., with options
    "percentile(percentile=25)". It is given what it knows of `preset`, too."""
    name, options = _call(text, kind.lower())
    classes = {
        word.removesuffix(kind).lower(): getattr(module, word)
        for word in module.__all__
        if word.endswith(kind)
        and not inspect.isabstract(getattr(module, word))
        and word not in LEFT_OUT
    }
    if name.lower() not in classes:
        raise unknown(kind.lower(), name, classes)
    cls = classes[name.lower()]
    known = inspect.signature(cls).parameters
    preset = {key: value for key, value in preset.items() if key in known}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return cls(**{**preset, **options})
    except (TypeError, ValueError) as error:
        raise NasplugError(
            f"{kind.lower()} {text!r}: {error}; options are given as {name}(option=value), and "
            f"Optuna's {cls.__name__} takes {', '.join(known)}"
        ) from None


def _call(text: str, kind: str) -> tuple[str, dict[str, Any]]:
    """The name and the options, which are literals, of such as ``name(option=1, other='x')``."""
    try:
        match ast.parse(text, mode="eval").body:
            case ast.Name(id=name):
                return name, {}
            case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords):
                return name, {str(k.arg): ast.literal_eval(k.value) for k in keywords}
    except (SyntaxError, ValueError):
        pass
    raise NasplugError(f"a {kind} is a name such as tpe or nop, or name(option=1); got {text!r}")


class _SeededPerTrial(BaseSampler):
    """Any sampler, seeded anew for each trial, by the study's seed and the trial's number.

    So what a trial is offered depends on the finished trials, and not on which process takes it
    or whether the study was interrupted before.
    """

    def __init__(self, make: Callable[..., BaseSampler], seed: int) -> None:
        self.make, self.seed = make, seed
        self.sampler = self._seeded(0)

    def _seeded(self, number: int) -> BaseSampler:
        seed = int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return self.make(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.sampler = self._seeded(trial.system_attrs.get("failed_trial", trial.number))
        self.sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self.sampler.after_trial(study, trial, state, values)


class Objective:
    """One trial of the study: a search for each seed, given up where the pruner says so."""

    def __init__(self, task: Task, searches: Searches) -> None:
        self.task = task
        self.searches = searches
        self.paired = isinstance(task.make_pruner(), optuna.pruners.WilcoxonPruner)
        self._problems: dict[int, Problem] = {}  # an evaluator holds nothing of a search
        self.space = task.hyperparameters(self._problem(task.seeds[0]).space)

    def __call__(self, trial: optuna.Trial) -> list[float]:
        hyperparameters = self.space.suggest(trial)
        done: list[Record] = []
        for step, seed in enumerate(self.task.seeds):
            done.append(self._search(trial, hyperparameters, seed))
            means = np.mean([record["objectives"] for record in done], axis=0).tolist()
            if len(means) > 1:
                continue
            # The Wilcoxon pruner compares seed by seed, the others what is known so far.
            trial.report(done[-1]["objectives"][0] if self.paired else means[0], step)
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
                selection = self.task.search(self._problem(seed), hyperparameters, seed).run()
            except NasplugError as error:
                failure = {**about, "start": start, "error": str(error)}
                self._append(trial, failure)
                trial.set_user_attr("error", str(error))
                raise SearchFailed(str(error)) from error
            record = {**about, **describe(selection, self.task.objectives)}
        self._append(trial, record)
        return record

    def _problem(self, seed: int) -> Problem:
        if seed not in self._problems:
            self._problems[seed] = self.task.problem(seed)
        return self._problems[seed]

    def _append(self, trial: optuna.Trial, record: Record) -> None:
        self.searches.append({**record, "trial": trial.number, "key": uuid.uuid4().hex})

    def _end(self, trial: optuna.Trial, done: list[Record], state: str) -> None:
        reports = [record["report"] for record in done]
        summary = {
            "state": state,
            "objectives": [record["objectives"] for record in done],
            "report": None if None in reports else float(np.mean(reports)),
        }
        trial.set_user_attr("measured", summary)
        self.searches.append({"ended": trial.number, "time": time.time(), **summary})


def work(
    study: stored.Queue,
    objective: Objective,
    locks: Path,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Run trials until none waits and none can come back; `watch` is called after each.

    locks: the folder in which workers hold their locks.
    """
    head = multiprocessing.parent_process()
    with stored.alive(study, locks):
        while head is None or head.is_alive():
            try:
                study.optimize(objective, n_trials=1, catch=(SearchFailed,))
            except stored.NothingWaits:
                if not stored.reclaim(study, locks):
                    if not stored.awaited(study, locks):
                        return
                    time.sleep(POLL)
            except optuna.exceptions.UpdateFinishedTrialError:
                pass  # the machine slept, and another worker has taken the trial over
            except ImportError as error:  # samplers import what they need when they are asked
                raise NasplugError(f"{objective.task.sampler}: {error}") from None
            watch()
