"""What everything that scores archs is expected to do."""

from __future__ import annotations

import pickle
import time
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np

from nasplug.kernel.problem import Problem
from nasplug.kernel.problem import problem as open_problem
from nasplug.kernel.search import Search
from nasplug.kernel.space import Archs
from nasplug.kernel.trial import State, Trials
from nasplug.testing.bench import global_randomness, quiet, reseeded
from nasplug.testing.check import Check, Checks, NotApplicable, run_all
from nasplug.testing.plugins import Samples

ARCHS, FEW = 24, 3  # that are scored; few where one takes long
LONG = 0.1  # seconds

checks = Checks()


def evaluator_checks(problem: Any) -> list[Check]:
    """The checks of what scores a problem: a Problem, its name, or an evaluator."""
    if isinstance(problem, str):
        problem = open_problem(problem)
    if not isinstance(problem, Problem):
        region, maximize = problem.region, problem.maximize
        name = type(problem).__name__
        problem = Problem(region.space, name, problem, name, maximize, region)
    return checks.of(Scorer(problem))


def check_evaluator(problem: Any) -> None:
    """All of them at once; raises one `CheckFailed` that names those that failed."""
    run_all(evaluator_checks(problem))


class Scorer:
    """A problem, and what it says of some archs."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.region = problem.region or problem.space

    @cached_property
    def archs(self) -> Archs:
        """Some of its region, few if one takes long."""
        space, archs = self.problem.space, self.region.sample(10 * ARCHS, 0)
        archs = space.unique(archs)
        start = time.perf_counter()
        with suppress(Exception), quiet():
            self.problem.score(archs[:1])
        return archs[: FEW if time.perf_counter() - start > LONG else ARCHS]

    @cached_property
    def first(self) -> Trials:
        """Their trials."""
        return self.score(self.archs)

    def score(self, archs: Archs) -> Trials:
        with quiet():
            return self.problem.score(archs)


@checks.add("set `maximize`, `reward`, `report` and `region` in `__init__`: see nasplug.Evaluator")
def says_what_it_is(scorer: Scorer) -> None:
    """It says its direction, the names of what it returns, and what it can score."""
    evaluator = scorer.problem.evaluator
    for name, kind in (("maximize", bool), ("reward", str), ("report", str)):
        value = getattr(evaluator, name, None)
        assert isinstance(value, kind), f"`{name}` is {value!r}, not a {kind.__name__}"
    assert hasattr(evaluator, "region"), "it has no `region`"


@checks.add("`candidates.tell(...)` for all rows of `candidates.waiting`, then return them")
def scores_every_row(scorer: Scorer) -> None:
    """Every row has a finite value, or has failed or was pruned; some have a value."""
    trials = scorer.first
    assert len(trials) == len(scorer.archs), f"{len(scorer.archs)} archs have {len(trials)} rows"
    assert not len(trials.waiting), f"row {trials.waiting[0]} was not told"
    assert (trials.states == State.COMPLETE).any(), f"no arch has a value: {_errors(trials)}"
    assert np.array_equal(trials.archs, scorer.archs), "archs were written over"


@checks.add("catch what goes wrong with an arch, and say so by `candidates.fail(row, error)`")
def fails_row_by_row(scorer: Scorer) -> None:
    """An arch that cannot be scored is a failed trial, not a dead search."""
    for arch in scorer.archs:
        try:
            trials = scorer.score(arch[None])
        except Exception as error:
            text = scorer.problem.space.to_str(arch)
            raise AssertionError(f"{text} raised {type(error).__name__}: {error}") from error
        failed = trials.states == State.FAILED
        said = "error" in trials.notes.get(0, {})
        assert said or not failed.any(), "a trial has failed without a word on why"


@checks.add("tell values in the order of the rows that wait")
def keeps_the_order(scorer: Scorer) -> None:
    """The same archs in another order have the same values."""
    _same(scorer, scorer.score(scorer.archs[::-1]), slice(None, None, -1), "in reverse order")


@checks.add("let the value of an arch depend on nothing but the arch")
def scores_alone_as_together(scorer: Scorer) -> None:
    """An arch has the same value alone as among others."""
    _same(scorer, scorer.score(scorer.archs[1:2]), slice(1, 2), "alone")


@checks.add("seed what is random by the problem's seed, for each arch anew")
def scores_the_same_again(scorer: Scorer) -> None:
    """An arch has one value, whatever the generators that everybody shares hold."""
    _ = scorer.first
    with reseeded(1):
        again = scorer.score(scorer.archs)
    _same(scorer, again, slice(None), "again")


@checks.add("use a generator of one's own instead of numpy.random, random and torch's own")
def leaves_global_randomness_alone(scorer: Scorer) -> None:
    """The generators that everybody shares are as they were."""
    _ = scorer.first
    before = global_randomness()
    scorer.score(scorer.archs[:FEW])
    after = global_randomness()
    drawn = [name for name, state in before.items() if after[name] != state]
    assert not drawn, f"it has drawn from {', '.join(drawn)}"


@checks.add("score `candidates.waiting` alone: other rows are known already")
def leaves_told_rows_alone(scorer: Scorer) -> None:
    """What has a value keeps it, and there may be nothing to score."""
    problem, archs = scorer.problem, scorer.archs
    trials = Trials(problem.space, archs.copy(), problem.maximize)
    trials.tell([0], values=-12345.0)
    with quiet():
        problem.scorer()(trials)
    assert trials.values[0] == -12345.0, "a row that was known has another value"
    _same(scorer, trials.select(np.arange(1, len(archs))), slice(1, None), "beside a known one")
    scorer.score(archs[:0])


@checks.add("take `search` as a source of nothing that a value depends on; it may be None")
def scores_in_a_search_as_outside(scorer: Scorer) -> None:
    """In a search an arch has the value that `problem.score` says."""
    problem = scorer.problem
    with quiet():
        search = Search(
            problem, Samples(), budget=min(FEW, len(scorer.archs)), within=scorer.region
        )
        search.run()
    found = search.trials
    outside = scorer.score(found.archs)
    changed = ~np.isclose(found.values, outside.values, equal_nan=True)
    assert not changed.any(), (
        f"{problem.space.to_str(found.archs[changed][0])} is {found.values[changed][0]:g} in a "
        f"search and {outside.values[changed][0]:g} outside"
    )


@checks.add("keep nothing on it that cannot be sent: open files, locks, connections, lambdas in C")
def scores_in_a_worker(scorer: Scorer) -> None:
    """Sent to another process, it says the same."""
    try:
        from cloudpickle import dumps
    except ImportError:
        raise NotApplicable("workers need cloudpickle: pip install 'nasplug[parallel]'") from None
    _ = scorer.first
    there: Problem = pickle.loads(dumps(scorer.problem))
    with quiet():
        _same(scorer, there.score(scorer.archs[:FEW]), slice(FEW), "in a worker")


def _same(scorer: Scorer, trials: Trials, rows: slice, where: str) -> None:
    """Whether trials have the values that these rows had at first."""
    expected = scorer.first.values[rows]
    changed = ~np.isclose(trials.values, expected, equal_nan=True)
    if changed.any():
        row = int(np.argmax(changed))
        text = scorer.problem.space.to_str(trials.archs[row])
        raise AssertionError(f"{text} was {expected[row]:g}, and {trials.values[row]:g} {where}")


def _errors(trials: Trials) -> str:
    return next((str(note["error"]) for note in trials.notes.values() if "error" in note), "")
