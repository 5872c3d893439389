"""Constraints on what archs cost, and what a region has within those known before a score."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError, unknown
from nasplug.kernel.search import Search
from nasplug.kernel.space import Archs, Seed, Space, try_draws
from nasplug.kernel.subspace import Region, Subspace
from nasplug.kernel.trial import State, Trials
from nasplug.run.latency import LATENCY, note
from nasplug.spaces.latency import UNITS

KNOWN = ("params", "flops")  # of an arch before it is scored, where the space knows them
MOST = 65_536  # archs drawn at a time to find feasible ones
FEW = 4096  # archs that are drawn at least to see whether these are seldom
SELDOM = 0.01  # the share of feasible ones below which others are brought nearer
TRIES = 100  # times that an arch is mutated to find a feasible one
OPERATORS = {"<=": np.less_equal, "<": np.less, ">=": np.greater_equal, ">": np.greater}


class Constraint:
    """A limit such as ``flops <= 300e6``: on ``params``, ``flops``, ``latency <= 5ms`` or a metric
    of the trials."""

    known = False  # whether an arch's value is known before it is scored
    fix = ""  # how it would be
    latency: Any = None  # what tells it, as `nasplug.run.latency` has it

    def __init__(self, text: str) -> None:
        match = re.fullmatch(
            r"\s*([\w@/.-]+?)\s*(<=|>=|<|>)\s*([-+\d.eE]+)\s*([a-z]*)\s*", str(text)
        )
        try:
            self.limit = float(match[3]) if match else np.nan
        except ValueError:
            match = None
        if not match:
            raise NasplugError(
                f"a constraint reads NAME <= NUMBER, such as flops<=300e6; got {text!r}"
            )
        self.name, self.operator, self.unit = match[1], match[2], match[4]

    def setup(self, search: Search) -> None:
        """Learn what tells its values, and take the limit in their unit."""
        if self.name == LATENCY:
            self.latency, self.fix = search.latency, "; a table tells it, latency='table.json'"
            if self.unit:
                if self.unit not in UNITS:
                    raise unknown("unit of time", self.unit, UNITS, f"in {self}")
                own = {} if self.latency.known else getattr(search.problem.evaluator, "units", {})
                unit = own.get(LATENCY, "ms")
                self.limit, self.unit = self.limit * UNITS[self.unit] / UNITS[unit], unit
        elif self.unit == "x":
            self._relate(search.space)
        elif self.unit:
            raise NasplugError(f"{self}: {self.name} has no unit, {self.name}{self.operator}1e6")
        self.known = self.told_by(search.space)

    def _relate(self, space: Space) -> None:
        """Take a limit such as ``0.5x`` for that share of the model that the space was made of."""
        original = getattr(space, "original", None)
        if original is None or self.name not in KNOWN:
            raise NasplugError(
                f"{self} is a share of what a model has, {' or '.join(KNOWN)}, and only a space of "
                "nasplug.elastic is made of one: give a number"
            )
        self.limit, self.unit = self.limit * float(self.values(space, original[None])[0]), ""

    def holds(self, trials: Trials, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        """Which of these rows keep to it; one without a value, such as a failed one, breaks none.

        NasplugError if it is on something that nobody has measured.
        """
        good = np.ones(len(rows), dtype=bool)
        complete = trials.states[rows] == State.COMPLETE
        if complete.any():
            at = rows[complete]
            if self.name == LATENCY:
                note(trials, at, self.latency)
            column = trials.metrics.get(self.name)
            if column is None and self.name not in KNOWN:
                raise unknown("constraint on", self.name, {*KNOWN, *trials.metrics})
            good[complete] = (
                self.allows(trials.space, trials.archs[at])
                if column is None
                else self.compare(column[at])
            )
        return good

    def told_by(self, space: Space) -> bool:
        """Whether it is on what is known of an arch before it is scored."""
        if self.latency is not None:
            return bool(self.latency.known)
        try:
            return self.name in KNOWN and bool(len(self.allows(space, space.sample(1, 0))))
        except NasplugError:
            return False

    def allows(self, space: Space, archs: Archs) -> npt.NDArray[np.bool_]:
        """(n, d) -> (n,): which archs keep to it, by what is known of them."""
        return self.compare(self.values(space, archs))

    def values(self, space: Space, archs: Archs) -> npt.NDArray[Any]:
        """(n, d) -> (n,): what is known of some archs."""
        tell = getattr(space, self.name) if self.latency is None else self.latency
        return np.asarray(tell(archs))

    def excess(self, space: Space, archs: Archs) -> npt.NDArray[np.float64]:
        """(n, d) -> (n,): how far they are beyond the limit, by its size; negative within it."""
        beyond = (self.values(space, archs) - self.limit) / (abs(self.limit) or 1)
        return np.asarray(beyond if self.operator.startswith("<") else -beyond)

    def of(self, trials: Trials) -> npt.NDArray[Any]:
        """(n,) the values of some trials, NaN where unknown."""
        if self.name in trials.metrics:
            return trials.metrics[self.name]
        return self.values(trials.space, trials.archs)

    def nearest(self, values: npt.NDArray[Any]) -> str:
        """In words: of some values the one that comes nearest to keeping to it."""
        lowest = self.operator.startswith("<")
        found = np.nanmin(values) if lowest else np.nanmax(values)
        return (
            f"the {'lowest' if lowest else 'highest'} {self.name} found is {found:.4g}{self.unit}"
        )

    def compare(self, column: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        return np.asarray(OPERATORS[self.operator](column, self.limit))

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{self.limit:g}{self.unit}"


class Constraints:
    """A plugin that keeps a search to limits: what is known before a score is no part of its region
    any more, and trials that break another one are never selected."""

    def __init__(self, texts: Sequence[str]) -> None:
        if not isinstance(texts, list | tuple):
            raise NasplugError(f"constraints is a list such as ['flops<=1e6'], got {texts!r}")
        self.constraints = [Constraint(text) for text in texts]

    def setup(self, search: Search) -> None:
        search.constraints = self.constraints
        for one in self.constraints:
            one.setup(search)
        if known := [one for one in self.constraints if one.known]:
            search.region = Feasible(search.region, known)
            search.region.sample(1, 0)  # or an error, before anything is written


class Feasible(Subspace):
    """The archs of a region that keep to some constraints, which the space can tell."""

    def __init__(self, region: Region, constraints: Sequence[Constraint]) -> None:
        self.space, self._region, self.constraints = region.space, region, constraints

    @property
    def unlimited(self) -> Region:
        return self._region

    @property
    def size(self) -> int:
        """That of the region without constraints."""
        return self._region.size

    def includes(self, archs: Archs) -> npt.NDArray[np.bool_]:
        inside = self._region.contains(archs)
        inside[inside] = self._feasible(archs[inside])
        return inside

    def _feasible(self, archs: Archs) -> npt.NDArray[np.bool_]:
        """(n, d) archs of the region -> (n,): which of them keep to the constraints."""
        kept = np.ones(len(archs), bool)
        for constraint in self.constraints:
            kept[kept] = constraint.allows(self.space, archs[kept])
        return kept

    def sample(self, n: int, seed: Seed = None) -> Archs:
        """Drawn at random, as the region does; where feasible ones are seldom, most are archs that
        are drawn and then changed until they are feasible."""
        rng = np.random.default_rng(seed)
        found, size, total = np.empty((0, self.space.d), self.space.dtype), max(n, 1), 0
        while len(found) < n:
            drawn = self._region.sample(size, rng)
            found, total = np.concatenate([found, drawn[self._feasible(drawn)]]), total + size
            if total >= FEW and len(found) < min(n, SELDOM * total):
                found = np.concatenate([found, self._changed(drawn[: n - len(found)], rng)])
            size = min(2 * size, MOST)
        return found[:n]

    def _changed(self, archs: Archs, rng: np.random.Generator) -> Archs:
        """(n, d) -> (n, d): feasible archs, each with some decisions of one far within the limits;
        NasplugError if there is none."""
        goal = self._innermost(archs)
        order = rng.permuted(np.tile(np.arange(self.space.d), (len(archs), 1)), axis=1)
        left = np.arange(len(archs))
        for step in range(self.space.d):
            left = left[~self.contains(archs[left])]
            at = order[left, step]
            archs[left, at] = goal[at]
        return archs

    def _innermost(self, archs: Archs) -> Archs:
        """(d,): where changes of one decision lead to from the best of some archs, each to what
        is the farthest within all limits."""
        excess = self._excess(archs)
        arch, least = archs[excess.argmin()], excess.min()
        while (
            len(near := self._region.neighbors(arch))
            and (excess := self._excess(near)).min() < least
        ):
            arch, least = near[excess.argmin()], excess.min()
        if not self._feasible(arch[None])[0]:
            told = [one.nearest(one.values(self.space, arch[None])) for one in self.constraints]
            raise NasplugError(
                f"nothing was found in {self.describe()}: {', '.join(told)}; loosen constraints"
            )
        return arch

    def _excess(self, archs: Archs) -> npt.NDArray[np.float64]:
        """(n, d) -> (n,): how far they are beyond the limit that they are farthest beyond."""
        return np.max([one.excess(self.space, archs) for one in self.constraints], axis=0)

    def mutate(self, archs: Archs, seed: Seed = None, distance: int = 1) -> Archs:
        """As the region does; where nothing near is found to be feasible, any member that is."""
        rng = np.random.default_rng(seed)
        result, lonely = try_draws(
            len(archs),
            lambda rows: self._region.mutate(archs[rows], rng, distance),
            lambda mutants, rows: self._feasible(mutants),
            TRIES,
        )
        if len(lonely):
            result[lonely] = self.sample(len(lonely), rng)
        return result

    def neighbors(self, arch: npt.ArrayLike, distance: int = 1) -> Archs:
        archs = self._region.neighbors(arch, distance)
        return archs[self._feasible(archs)]

    def describe(self) -> str:
        return f"{self._region.describe()}, with {', '.join(map(str, self.constraints))}"

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        raise NasplugError(f"{self.describe()}: a region is saved without its constraints")
