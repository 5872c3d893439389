"""How the checks run searches, and watch them."""

from __future__ import annotations

import copy
import logging
import random
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.hookspecs import hookimpl
from nasplug.kernel.problem import Problem
from nasplug.kernel.search import Search
from nasplug.kernel.selection import Selection
from nasplug.kernel.space import Archs
from nasplug.kernel.subspace import Region
from nasplug.kernel.trial import Trials
from nasplug.run.api import find_method, make_search
from nasplug.run.api import search as search_from_the_door
from nasplug.testing.check import NotApplicable
from nasplug.testing.tiny import tiny_problem, tiny_task

T = TypeVar("T")

PATIENCE = 100  # repeats in a row after which it is given up, sooner than the kernel does
BUDGET = 24  # trials of a search, where a method takes it
IDLE = 3.0  # seconds for which others are watched
FIDELITY = (1, 9)  # of a method that needs one
LEAST, MOST = 2, 64  # epochs of a search that trains a supernet: as few as the method takes


class Watched(NamedTuple):
    """A search: what it found, what it has written over, CPU seconds a round of its own hooks."""

    selection: Selection
    touched: str
    seconds: float


class Bench:
    """A method, and searches by fresh copies of it.

    A method that trains a supernet, which a tiny problem has not, searches a small one of the space
    that it names itself, on a few of scikit-learn's digits.
    """

    def __init__(self, method: Any) -> None:
        if isinstance(method, type):
            method = method()
        method, self.name = find_method(method, {})
        self._pristine = copy.deepcopy(method)

    def fresh(self) -> Any:
        """The method as it was given, never set up."""
        return copy.deepcopy(self._pristine)

    @cached_property
    def trains(self) -> bool:
        """Whether it needs a supernet to train."""
        if not hasattr(self._pristine, "evaluate"):
            return False
        with suppress(Exception):
            self._start(tiny_problem(), BUDGET, plain=True)
            return False
        return True

    @cached_property
    def climbs(self) -> bool:
        """Whether it needs an evaluator with a fidelity."""
        if self.trains:
            return False
        with suppress(NasplugError):
            self._start(tiny_problem(), BUDGET, plain=True)
            return False
        with suppress(NasplugError):
            self._start(tiny_problem(), BUDGET, plain=False)
            return True
        return False

    def needs_a_table(self) -> None:
        """NotApplicable if the method trains what it scores."""
        if self.trains:
            raise NotApplicable("it scores archs by a supernet that it trains itself")

    @cached_property
    def task(self) -> dict[str, Any]:
        """What it searches, as the options of `nasplug.search`."""
        if not self.trains:
            return {**tiny_task(), **({"fidelity": FIDELITY} if self.climbs else {})}
        task: dict[str, Any] = import_module("nasplug.testing.networks").digits(
            self._pristine.problem
        )
        return task

    def problem(self) -> Problem:
        """What it searches, afresh."""
        return Problem.of(**{k: v for k, v in self.task.items() if k != "fidelity"})

    @cached_property
    def budget(self) -> int:
        """So many trials, or as few more as the method needs to start at all."""
        if not self.trains:
            return BUDGET
        budget = LEAST
        while budget < MOST:
            with suppress(NasplugError):
                self._start(self.problem(), budget)
                break
            budget *= 2
        return budget

    def search(
        self, problem: Problem | None = None, *, budget: int | None = None, method: Any = None,
        **options: Any,
    ) -> Selection:  # fmt: skip
        """A search of the kernel, in memory, by a fresh copy of the method or by the one given."""
        with self.refusing(), quiet():
            return self.start(problem, budget=budget, method=method, **options).run()

    def start(
        self, problem: Problem | None = None, *, budget: int | None = None, method: Any = None,
        **options: Any,
    ) -> Search:  # fmt: skip
        """The same, set up and not run."""
        with self.refusing(setup=True), quiet():
            problem = problem or self.problem()
            return self._start(problem, budget or self.budget, method, **options)

    def _start(
        self, problem: Problem, budget: int, method: Any = None, plugins: Sequence[Any] = (),
        plain: bool | None = None, **options: Any,
    ) -> Search:  # fmt: skip
        method = method or self.fresh()
        plugins = self.plugins(*plugins)
        if self.climbs if plain is None else not plain:
            problem.reach(FIDELITY)
        return make_search(problem, method, self.name, budget=budget, plugins=plugins, **options)

    def plugins(self, *more: Any) -> list[Any]:
        """What every search has."""
        return [*more, Impatient()]

    def by_the_door(self, **options: Any) -> Selection:
        """A search by `nasplug.search`, with workers or a run directory."""
        quietly: dict[str, Any] = {
            "tracking": False, "progress": False, "budget": self.budget, "plugins": self.plugins(),
        }  # fmt: skip
        with self.refusing(), quiet():
            return search_from_the_door(self.fresh(), **{**self.task, **quietly, **options})

    # ---- searches that several checks look at: with the defaults and seed 0

    @cached_property
    def first(self) -> Watched:
        """The first search that there is, watched."""
        untouched, clock = Untouched(), Clock()
        found = self.search(plugins=[untouched, clock])
        return Watched(found, untouched.found, clock.seconds)

    @property
    def reference(self) -> Trials:
        """Its trials."""
        return self.first.selection.search.trials

    @cached_property
    def again(self) -> tuple[Selection, list[str]]:
        """The same where the generators that everybody shares hold something else: what it found,
        and which of these generators it has drawn from."""
        self.first  # noqa: B018 - what imports do to generators is not the method's
        found, drawn = drawn_from(self.search)
        if drawn:  # or a thread of somebody else's has, which goes on while nothing is searched
            _, idle = drawn_from(partial(time.sleep, IDLE))
            drawn = [name for name in drawn if name not in idle]
        return found, drawn

    @cached_property
    def states(self) -> list[dict[str, Any]]:
        """Of the method, after rounds 1, 2, 4 ...; NotApplicable if it keeps none."""
        kept = States()
        self.search(plugins=[kept])
        if None in kept.found:
            raise NotApplicable("it keeps no state, and is replayed (state() is None)")
        return kept.found

    @contextmanager
    def refusing(self, setup: bool = False) -> Iterator[None]:
        """What the method refuses in words of its own does not apply to it.

        Of a NasplugError that the kernel raises during a search the method is the cause.
        """
        try:
            yield
        except NasplugError as error:
            frame = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
            module = str(frame.f_globals.get("__name__"))
            own = not module.startswith(("nasplug.kernel.", "nasplug.testing."))
            asked = setup and frame.f_code.co_name == "allows"
            if error.__cause__ is None and (own or asked):
                raise NotApplicable(f"refused: {error}") from error
            raise


@contextmanager
def quiet() -> Iterator[None]:
    logger = logging.getLogger("nasplug")
    before, logger.disabled = logger.disabled, True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.disabled = before


# ---- what searches are compared by


def difference(one: Trials, other: Trials) -> str:
    """The first trial in which two searches differ, or ''."""
    for i in range(min(len(one), len(other))):
        if not np.array_equal(one.archs[i], other.archs[i]):
            return f"trial {i} was {_shown(one, i)}, then {_shown(other, i)}"
        if not np.array_equal(one.values[i], other.values[i], equal_nan=True):
            return f"the value of trial {i} was {one.values[i]}, then {other.values[i]}"
    if len(one) != len(other):
        return f"one search had {len(one)} trials, the other {len(other)}"
    return ""


def _shown(trials: Trials, i: int) -> str:
    return trials.space.to_str(trials.archs[i])


def drawn_from(action: Callable[[], T]) -> tuple[T, list[str]]:
    """What an action returns, and which generators that everybody shares changed meanwhile."""
    with reseeded(1):
        before = global_randomness()
        result = action()
        after = global_randomness()
    return result, [name for name, state in before.items() if after[name] != state]


def global_randomness() -> dict[str, Any]:
    """The states of the generators that everybody shares, as what compares."""
    states: dict[str, Any] = {"random": random.getstate(), "numpy.random": repr(_numpy_state())}
    if torch := sys.modules.get("torch"):
        states["torch"] = torch.get_rng_state().tolist()
    return states


def _numpy_state() -> Any:
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - which others may use
    return name, np.asarray(keys).tolist(), rest


@contextmanager
def reseeded(seed: int) -> Iterator[None]:
    """The generators that everybody shares begin elsewhere, and are as before afterwards."""
    before, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch = sys.modules.get("torch")
    torchs = torch.get_rng_state() if torch else None
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if torch:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpys)  # noqa: NPY002
        if torch:
            torch.set_rng_state(torchs)


# ---- plugins that watch


class Proposals:
    """Keeps the archs of each round as they were proposed."""

    def __init__(self) -> None:
        self.rounds: list[Archs] = []

    @hookimpl(wrapper=True)
    def propose(self) -> Any:
        proposal = yield
        archs = proposal.archs if isinstance(proposal, Trials) else proposal
        if isinstance(archs, np.ndarray):
            self.rounds.append(archs.copy())
        return proposal


class Untouched:
    """Keeps what was written over in the history, or in the trials that `update` hands over."""

    def __init__(self) -> None:
        self.found = ""

    @hookimpl(wrapper=True)
    def propose(self, search: Search) -> Any:
        return (yield from self._watched("propose", search.trials))

    @hookimpl(wrapper=True)
    def update(self, search: Search, trials: Trials) -> Any:
        return (yield from self._watched("update", search.trials, trials))

    def _watched(self, hook: str, *tables: Trials) -> Any:
        before = [{name: getattr(t, name).copy() for name in t.columns} for t in tables]
        result = yield
        for table, columns in zip(tables, before, strict=True):
            for name, column in columns.items():
                now = getattr(table, name)[: len(column)]
                if not np.array_equal(now, column, equal_nan=column.dtype.kind == "f"):
                    self.found = self.found or f"`{name}` of the trials was changed in {hook}"
        return result


class Clock:
    """CPU seconds in the method's own hooks, by round on the average."""

    def __init__(self) -> None:
        self.total, self.rounds = 0.0, 0

    @property
    def seconds(self) -> float:
        return self.total / max(1, self.rounds)

    def _timed(self) -> Any:
        start = time.process_time()
        result = yield
        self.total += time.process_time() - start
        return result

    @hookimpl(wrapper=True)
    def sample_space(self) -> Any:
        return (yield from self._timed())

    @hookimpl(wrapper=True)
    def propose(self) -> Any:
        return (yield from self._timed())

    @hookimpl(wrapper=True)
    def update(self) -> Any:
        self.rounds += 1
        return (yield from self._timed())


class States:
    """Keeps what a checkpoint would hold of the method, after rounds 1, 2, 4 ..."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    @hookimpl(tryfirst=True)
    def sample_space(self, search: Search) -> Region | None:
        if search.round == 2 ** len(self.found):
            state = getattr(search.method, "state", lambda: None)()
            self.found.append(copy.deepcopy(state))
        return None


class Impatient:
    """Ends a search that finds nothing new any more."""

    @hookimpl(tryfirst=True)
    def sample_space(self, search: Search) -> Region | None:
        if search.cache.unchanged > PATIENCE:
            search.stop("nothing new is proposed")
        return None


class Killed(BaseException):
    """What no method catches."""


class Kill:
    """Ends a search as kill would, after so many rounds, with their last checkpoint written, or at
    its end, before anything is selected and drawn."""

    trials: Trials | None = None  # all of them, if it had come to its end

    def __init__(self, after: int) -> None:
        self.after = after

    @hookimpl(tryfirst=True)
    def sample_space(self, search: Search) -> Region | None:
        if search.round >= self.after:
            raise Killed
        return None

    @hookimpl(tryfirst=True)
    def select_final(self, search: Search) -> None:
        self.trials = search.trials
        raise Killed


class Scores:
    """An evaluator: ``score(archs)`` gives values and states, (n,) each."""

    maximize, reward, report = True, "value", "report"
    fidelity: tuple[str, int, int] | None = None

    def reach(self, low: int, high: int) -> None:
        self.fidelity = ("fidelity", low, high)

    def __init__(self, score: Callable[[Archs], tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> None:
        self.score = score

    @hookimpl
    def evaluate(self, candidates: Trials) -> Trials:
        rows = candidates.waiting
        values, states = self.score(candidates.archs[rows])
        return candidates.tell(rows, values=values, state=states)
