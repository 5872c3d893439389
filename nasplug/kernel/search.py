"""Search: one run of the five-hook loop."""

from __future__ import annotations

import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, count
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError, check_number
from nasplug.hookspecs import hookimpl
from nasplug.kernel.problem import Problem
from nasplug.kernel.registry import plug, plugin_manager
from nasplug.kernel.selection import TRACEBACK, Selection, best_trials
from nasplug.kernel.space import Archs, Space
from nasplug.kernel.subspace import Region, Subspace
from nasplug.kernel.trial import History, State, Trial, Trials

PATIENCE = 10_000  # repeats in a row after which a search gives up
SELECTED = 10  # how many archs a search returns if its method does not choose


class Search:
    """One run: problem + method + budget + seed.

    What plugins use: ``space``, ``region`` (where the search may look: within the constraints that
    are known before a score), ``rng`` (all of a method's randomness), ``trials``, ``maximize``,
    ``remaining``, ``wanted`` and ``pending`` (how many archs, and which are out), ``round``,
    ``repeats``, ``keys(archs)``, ``seen(archs)``, ``scores(archs)``, ``allows(archs)``,
    ``stop(reason)``, ``candidates(archs, fidelities)``, ``fidelity``, and ``objectives``, if there
    are several.
    """

    def __init__(
        self,
        problem: Problem,
        method: Any,
        method_name: str = "",
        *,
        budget: int,
        seed: int = 0,
        within: Region | None = None,
        max_cost: float | None = None,
        max_seconds: float | None = None,
        repeats: Literal["free", "count"] = "free",
        isomorphs: Literal["shared", "apart"] | None = None,
        at_once: int = 1,
        asynchronous: bool = False,
        plugins: Sequence[Any] = (),
    ) -> None:
        for name, limit in {"max_cost": max_cost, "max_seconds": max_seconds}.items():
            if limit is not None and not (isinstance(limit, Real) and limit > 0):
                raise NasplugError(f"{name} must be a number above 0, got {limit!r}")
        check_number("budget", budget, 1)
        check_number("seed", seed, 0)
        check_number("at_once", at_once, 1)
        for name, word, words in (
            ("repeats", repeats, ("free", "count")),
            ("isomorphs", isomorphs, ("shared", "apart", None)),
        ):
            if word not in words:
                raise NasplugError(f"{name} is {words[0]!r} or {words[1]!r}, got {word!r}")
        self.problem = problem
        self.space: Space = problem.space
        self.region: Region = within or problem.region or self.space
        if not self.space.matches(self.region.space):
            raise NasplugError(f"{self.region.describe()} is no region of {self.space.name}")
        if asynchronous and (repeats == "count" or not getattr(method, "asynchronous", False)):
            who = method_name or type(method).__name__
            reason = 'repeats="count"' if repeats == "count" else f"{who} learns from whole rounds"
            raise NasplugError(f"{reason}: it cannot be asynchronous; workers= alone speeds it up")
        self.at_once, self.asynchronous = int(at_once), asynchronous
        self.out: dict[int, Archs] = {}  # {number: arch} of trials that other rounds will hear of
        self.maximize = problem.maximize
        self.method = method
        self.method_name = method_name or type(method).__name__
        self.budget, self.max_cost, self.max_seconds = int(budget), max_cost, max_seconds
        self.repeats, self.isomorphs = repeats, isomorphs
        self.seed = int(seed)
        self.rng = np.random.default_rng(seed)
        self.pruner: Callable[[Trial], bool] | None = None
        self.folder: Path | None = None  # the run directory, if there is one
        self.constraints: Sequence[Any] = ()  # `nasplug.run.constraints` knows what is one
        self.objectives: Any = None  # several, as `nasplug.run.objectives` knows them
        self.latency: Any = None  # what tells that of archs, as `nasplug.run.latency` has it
        self.trials = History(self.space, self.maximize)
        self.round = 0
        self.finished = 0  # trials with a value, pruned or failed
        self.cost = 0.0
        self.stopped = ""  # why, once the search has ended
        self.activity = ""  # what a long round is about, for whoever watches
        self.listeners: list[Callable[[Trials, npt.NDArray[np.intp]], None]] = []
        self._start = time.perf_counter()
        self.ended: float | None = None  # its seconds, once it has ended

        self.pm = plugin_manager()
        named = {"defaults": _Defaults(), "evaluator": problem.evaluator, "method": method}
        named["cache"] = self.cache = _Cache(count=repeats == "count")
        for name, plugin in named.items():
            if plugin is not None:
                plug(self.pm, plugin, name)
        for plugin in plugins:
            plug(self.pm, plugin)
        with self._named():
            for plugin in (*plugins, method):
                if setup := getattr(plugin, "setup", None):
                    setup(self)

    # ---- the loop

    def run(self) -> Selection:
        """Search until the budget is spent; returns the selection."""
        hook = self.pm.hook
        with self._named():
            while not self.done:
                subspace = hook.sample_space(search=self)
                candidates = self._candidates(hook.propose(search=self, subspace=subspace))
                trials = hook.evaluate(search=self, candidates=candidates)
                self.round += 1
                hook.update(search=self, trials=trials)
            self.ended = self.elapsed
            best_trials(self.trials, 1, self.constraints)  # or an error that says why there is none
            return Selection.of(hook.select_final(search=self), self)

    @property
    def done(self) -> bool:
        """Whether the search has ended; `stopped` says why."""
        if not self.stopped:
            if self.finished >= self.budget:
                self.stopped = "budget spent"
            elif self.max_cost is not None and self.cost >= self.max_cost:
                self.stopped = "cost spent"
            elif self.max_seconds is not None and self.elapsed >= self.max_seconds:
                self.stopped = "time is up"
            elif self.cache.exhausted(self):
                self.stopped = "nothing new is proposed: every arch in reach has been scored"
        return bool(self.stopped)

    def seen(self, archs: Archs) -> npt.NDArray[np.bool_]:
        """(n, d) -> (n,): which archs have been scored already, in full."""
        keys, known = self.keys(archs), self.cache.numbers[self.full]
        return np.fromiter((key in known for key in keys), bool, len(keys))

    def scores(self, archs: Archs) -> npt.NDArray[np.float64]:
        """(n, d) archs that were scored in full -> (n,) scores, as objectives are weighed now."""
        numbers = [self.cache.numbers[self.full][key] for key in self.keys(archs)]
        return self.trials.select(np.array(numbers, np.intp)).scores

    def keys(self, archs: Archs) -> list[Any]:
        """One hashable key per arch, the same for archs that share their score."""
        apart = self.problem.apart if self.isomorphs is None else self.isomorphs == "apart"
        keys: list[Any] = (self.space.codes if apart else self.space.classes)(archs).tolist()
        return keys

    def allows(self, archs: Archs) -> npt.NDArray[np.bool_]:
        """(n, d) -> (n,): which archs may be proposed, being in the region.

        Raises NasplugError if there is a constraint that is known only of archs that were scored.
        """
        for constraint in self.constraints:
            if not constraint.known:
                raise NasplugError(
                    f"{self.method_name} can keep to limits on what {self.space.name} knows "
                    f"before a score, such as params and flops, not to {constraint}{constraint.fix}"
                )
        return self.region.contains(archs)

    @property
    def fidelity(self) -> tuple[str, int, int]:
        """(name, low, high) of the evaluator's; NasplugError if it has none."""
        if (found := self.problem.fidelity) is None:
            raise NasplugError(
                f"{self.method_name} needs an evaluator with a fidelity, such as the epochs of "
                f"training: {self.problem.name} has none. A function evaluate(arch, trial) that "
                "trains until trial.fidelity has one by fidelity=(low, high)"
            )
        return found

    @property
    def full(self) -> int:
        """The problem's highest fidelity, unless it is the method that scores."""
        return 0 if hasattr(self.method, "evaluate") else self.problem.full

    @cached_property
    def checkpoints(self) -> Path:
        """Where trials wait that may be trained on: in the run directory, or a temporary folder."""
        if self.folder:
            return self.folder.absolute() / "checkpoints"
        self._temporary = TemporaryDirectory(prefix="nasplug-")  # deleted with this search
        return Path(self._temporary.name)

    def stop(self, reason: str) -> None:
        """End the search after this round."""
        self.stopped = reason

    @property
    def remaining(self) -> int:
        """How many trials the budget still allows."""
        return max(0, self.budget - self.finished)

    @property
    def wanted(self) -> int:
        """How many archs this round should propose, so that no worker waits; it may be more."""
        return min(self.at_once, self.remaining) - len(self.out)

    @property
    def pending(self) -> Archs:
        """(n, d) what an asynchronous search has proposed, and not heard of yet."""
        return np.array([*self.out.values()], self.space.dtype).reshape(-1, self.space.d)

    @property
    def elapsed(self) -> float:
        """Seconds of search, those before an interruption counted in."""
        return time.perf_counter() - self._start if self.ended is None else self.ended

    @elapsed.setter
    def elapsed(self, seconds: float) -> None:
        self._start = time.perf_counter() - seconds

    def candidates(self, archs: npt.ArrayLike, fidelities: npt.ArrayLike | None = None) -> Trials:
        """Archs -> trials that wait to be scored, at the full fidelity unless others are given;
        what they are told is recorded."""
        archs = np.atleast_2d(np.asarray(archs))
        fidelities = self.full if fidelities is None else fidelities
        trials = Trials(self.space, archs, self.maximize, len(self.trials), self.round, fidelities)
        trials.pruner, trials.on_tell = self.pruner, self.record
        trials.objectives = self.objectives
        if self.full or hasattr(self.problem.evaluator, "inherit"):
            trials.checkpoints = self.checkpoints
        return trials

    def record(self, trials: Trials, rows: npt.NDArray[np.intp]) -> None:
        """Called by ``Trials.tell``: count, keep and journal what has just been scored."""
        if self.objectives is not None:
            self.objectives.measure(trials, rows)
        for constraint in self.constraints:
            trials.feasible[rows] &= constraint.holds(trials, rows)
        rows = rows[trials.numbers[rows] >= 0]
        if not len(rows):
            return
        self.trials.write(trials, rows)
        self.finished += len(rows)
        for number in self.out and trials.numbers[rows].tolist():
            self.out.pop(number, None)
        if self.max_cost is not None:
            if np.isnan(trials.costs[rows[trials.states[rows] == State.COMPLETE]]).any():
                raise NasplugError(f"{self.problem.name} states no costs, so max_cost cannot apply")
            self.cost += float(np.nansum(np.where(trials.repeats[rows], 0.0, trials.costs[rows])))
        for listener in self.listeners:
            listener(trials, rows)

    def _candidates(self, proposal: Archs | Trials | Region) -> Trials | Region:
        """What was proposed, checked: a method that leaves its region is an error."""
        if isinstance(proposal, Space | Subspace):
            return proposal.unlimited  # one network: what it selects is held to the constraints
        given = proposal if isinstance(proposal, Trials) else None
        archs = np.asarray(proposal if given is None else given.archs)
        if archs.ndim != 2 or archs.shape[1] != self.space.d:
            raise NasplugError(
                f"{self.method_name}.propose must return (n, {self.space.d}) archs, "
                f"got {type(proposal).__name__} of shape {archs.shape}"
            )
        if not (kept := self.region.contains(archs)).all():
            whole = self.region.unlimited
            if not (inside := whole.contains(archs)).all():
                outside = archs[~inside][0].tolist()
                raise NasplugError(f"{self.method_name}.propose left {whole.describe()}: {outside}")
            archs = archs[kept]
        archs = archs.astype(self.space.dtype, copy=False)
        if given is None:
            return self.candidates(archs)
        name, low, high = self.problem.fidelity or ("fidelity", 0, 0)
        if len(wrong := given.fidelities[(given.fidelities < low) | (given.fidelities > high)]):
            raise NasplugError(
                f"{self.method_name}.propose asks for {name} {wrong[0]}: {low} to {high} there are"
            )
        return self.candidates(archs, given.fidelities[kept])

    @property
    def plugin_names(self) -> dict[int, str]:
        """{id of a plugin: what people call it}."""
        return {
            id(plugin): type(plugin).__name__ if name.isdigit() else name  # pluggy's: its id
            for name, plugin in self.pm.list_name_plugin()
        } | {id(self.method): self.method_name}

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Whatever a plugin raises becomes an error that names the plugin and the hook."""
        try:
            yield
        except NasplugError:
            raise
        except Exception as error:
            where = "the search"
            names = self.plugin_names
            for frame, _ in traceback.walk_tb(error.__traceback__):
                if name := names.get(id(frame.f_locals.get("self"))):
                    where = f"plugin {name!r}, in {frame.f_code.co_name}"
            where += f": {type(error).__name__}: {error}, in round {self.round}{TRACEBACK}"
            raise NasplugError(where) from error

    # ---- going on where an interrupted search was

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint holds after a round, as arrays and JSON values, beside the trials.

        None if the method keeps none: then its search is replayed from the start.
        """
        of_method = getattr(self.method, "state", lambda: None)()
        if of_method is None:
            return None
        return {
            "round": self.round, "stopped": self.stopped, "unchanged": self.cache.unchanged,
            "rng": self.rng.bit_generator.state, "method": of_method,
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; the trials until then have been told."""
        self.round, self.stopped = int(state["round"]), str(state["stopped"])
        self.cache.unchanged = int(state["unchanged"])
        self.rng.bit_generator.state = state["rng"]
        self.method.load_state(state["method"])


class _Defaults:
    """What a method need not say."""

    @hookimpl
    def sample_space(self, search: Search) -> Region:
        return search.region

    @hookimpl
    def propose(self, search: Search) -> Archs:
        raise NasplugError(f"{search.method_name} implements no propose")

    @hookimpl
    def select_final(self, search: Search) -> Archs:
        return best_trials(search.trials, SELECTED)


class _Cache:
    """Answers repeated archs without scoring them again, and numbers the trials.

    A repeat is no trial unless repeats count. Outermost but for the user's own wrappers.
    """

    def __init__(self, count: bool) -> None:
        self.count = count
        # fidelity -> key of an arch -> the trial that scored it
        self.numbers: dict[int, dict[Any, int]] = defaultdict(dict)
        self.gaps: Iterator[int] = iter(())  # numbers of trials that an interruption has lost
        self.unchanged = 0  # repeats that do not count, and rounds of nothing, since a new trial

    @hookimpl(wrapper=True, tryfirst=True)
    def evaluate(
        self, search: Search, candidates: Trials | Region
    ) -> Generator[None, Trials, Trials]:
        if not isinstance(candidates, Trials):
            return (yield)
        repeats, sources = self._number(search, candidates)
        candidates.states[repeats] = State.COMPLETE.value  # no longer waiting
        trials = yield
        if repeats := [row for row in repeats if row < len(candidates)]:  # time may cut a round
            rows, numbers = np.array(repeats), np.array(sources[: len(repeats)])
            if search.asynchronous:  # what the method has not heard of, it will
                known = ~np.isin(numbers, [*search.out])
                rows, numbers = rows[known], numbers[known]
            candidates.copy(rows, search.trials, numbers)
            search.record(candidates, rows)
            if search.asynchronous:
                search.pm.hook.update(search=search, trials=candidates.select(rows))
        return trials

    def _number(self, search: Search, candidates: Trials) -> tuple[list[int], list[int]]:
        """Give the rows their numbers; returns the repeated rows and the trials they repeat."""
        fresh = chain(self.gaps, count(max([len(search.trials), *(n + 1 for n in search.out)])))
        numbers, room = [], search.remaining - len(search.out)
        repeats, sources = [], []
        self.unchanged += not len(candidates)
        keys, fidelities = search.keys(candidates.archs), candidates.fidelities.tolist()
        for row, (key, fidelity) in enumerate(zip(keys, fidelities, strict=True)):
            source = self.numbers[fidelity].get(key)
            if (source is None or self.count) and not room:
                candidates.truncate(row)
                break
            number = next(fresh) if source is None or self.count else -1
            numbers.append(number)
            if source is None:
                self.numbers[fidelity][key] = number
            else:
                repeats.append(row)
                sources.append(source)
            if number >= 0:
                room -= 1
                self.unchanged = 0
            else:
                self.unchanged += 1
        candidates.numbers = np.array(numbers, dtype=np.int64)
        return repeats, sources

    def exhausted(self, search: Search) -> bool:
        everything = not self.count and len(self.numbers[search.full]) >= search.region.size
        return everything or self.unchanged >= PATIENCE
