"""One search of a comparison, and what is kept of it. Tasks and records are plain: they travel to
processes and into a database."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from nasplug._version import __version__
from nasplug.comparison.contenders import Contender
from nasplug.errors import NasplugError
from nasplug.kernel.problem import Problem, problem
from nasplug.kernel.search import Search
from nasplug.kernel.selection import Selection
from nasplug.kernel.trial import State, Trials
from nasplug.run.api import make_search
from nasplug.run.directory import digest
from nasplug.run.report import incumbents

Record = dict[str, Any]

ASKED = 16  # archs by whose scores a problem is known again


@dataclass(frozen=True)
class Rules:
    """What is the same for all searches of a comparison."""

    budget: int
    max_cost: float | None = None
    max_seconds: float | None = None
    constraints: tuple[str, ...] = ()
    evaluator: str | None = None
    reward: str | None = None
    report: str | None = None
    latency: str | None = None  # a table, as JSON


@dataclass(frozen=True, eq=False)
class Task:
    """One search."""

    contender: Contender
    on: str
    seed: int
    rules: Rules

    def make(self) -> Search:
        """The search, not begun; NasplugError for what it would refuse."""
        rules = self.rules
        return make_search(
            opened(self.on, rules, self.seed), self.contender.make(), self.contender.name,
            budget=rules.budget, seed=self.seed, max_cost=rules.max_cost,
            max_seconds=rules.max_seconds, constraints=list(rules.constraints),
            latency=rules.latency and json.loads(rules.latency),
        )  # fmt: skip

    def run(self) -> Record:
        """Search; NasplugError that says which search it was, if it comes to nothing."""
        try:
            search = self.make()
            clock = Clock(search)
            return {"about": self.contender.about, **describe(search.run(), clock.seconds)}
        except NasplugError as error:
            raise NasplugError(
                f"{self.contender.name} on {self.on}, seed {self.seed}: {error}"
            ) from None

    def key(self, fingerprint: str) -> str:
        """By which its record is found again. fingerprint: of the problem."""
        identity = {
            "nasplug": __version__, **self.contender.identity, "problem": fingerprint,
            **asdict(self.rules), "seed": self.seed,
        }  # fmt: skip
        return digest(identity)


def described(problem: Problem) -> dict[str, Any]:
    """What is noted of a problem."""
    return {
        "evaluator": problem.evaluator_name, "reward": problem.reward, "report": problem.report,
        "maximize": problem.maximize,
    }  # fmt: skip


def fingerprint(problem: Problem) -> str:
    """By what a problem is known again: its space, what scores it, and, if that is a table, what
    the table says of a few archs, wherever it came from."""
    identity = {
        "problem": problem.name, "space": problem.space.fingerprint, **described(problem)
    }  # fmt: skip
    if problem.free:
        region = problem.region or problem.space
        asked = problem.score(region.sample(ASKED, np.random.default_rng(0)))
        identity["scores"] = [f"{x:.6g}" for x in (*asked.values, *asked.reports)]
    return digest(identity)


def opened(on: str, rules: Rules, seed: int) -> Problem:
    """The problem; rules that differ in budgets or limits share it."""
    return _problem(on, rules.evaluator, rules.reward, rules.report, seed)


_problem = lru_cache(maxsize=8)(problem)  # evaluators hold nothing of a search


class Clock:
    """The seconds after which each trial of a search was told."""

    def __init__(self, search: Search) -> None:
        self.seconds: list[float] = []
        self._search = search
        search.listeners.append(self._note)

    def _note(self, trials: Trials, rows: npt.NDArray[np.intp]) -> None:
        self.seconds += [self._search.elapsed] * len(rows)


def describe(selection: Selection, told: Sequence[float]) -> Record:
    """What is kept of a search: its numbers, what it selected, and its incumbents.

    What it had scored beyond a limit of cost or time does not count: if that was selected, the
    incumbent of that moment is.
    """
    search = selection.search
    trials, best = search.trials, selection.best
    seconds = np.sort(told)
    costs = np.nancumsum(np.where(trials.repeats, 0.0, trials.costs))
    stated = bool(np.isfinite(trials.costs).any())
    within = np.ones(len(trials), bool)
    if search.max_cost is not None:
        within &= costs <= search.max_cost
    if search.max_seconds is not None:
        within &= seconds <= search.max_seconds
    curve = [row for row in _incumbent_rows(search) if within[row]]
    if not curve:
        raise NasplugError("nothing was scored within the limit of cost or time: raise it")
    counts = within[best.number] if best.number >= 0 else within[-1]
    selected = best if counts else trials[curve[-1]]
    return {
        "value": _number(selected.value),
        "report": _number(selected.report_value),
        "arch": str(selected),
        "trials": len(trials),
        "failed": int((trials.states == State.FAILED).sum()),
        "cost": float(costs[-1]) if stated else None,
        "seconds": search.elapsed,
        "curve": [
            (
                row + 1, float(costs[row]) if stated else None, float(seconds[row]),
                _number(trials.reports[row]), _number(trials.values[row]),
            )
            for row in curve
        ],
    }  # fmt: skip


def _incumbent_rows(search: Search) -> list[int]:
    """The trials that became what would be selected; of a supernet, each epoch's arch."""
    trials = search.trials
    if hasattr(search.method, "evaluate"):
        changed = np.any(trials.archs[1:] != trials.archs[:-1], axis=1)
        return np.flatnonzero(np.append(True, changed)).tolist()
    found = incumbents(trials.ranks)
    return np.unique(found[found >= 0]).tolist()


def _number(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None
