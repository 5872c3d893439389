"""What a method declares -> what Optuna searches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna

from nasplug.errors import NasplugError, unknown
from nasplug.kernel.method import Bool, Choice, Float, Hyperparameter, Int


class HyperparameterSpace:
    """The tuned hyperparameters of a method, in an order in which conditions can be decided.

    params: their names; by default all that are tunable, bounded and not `fixed`.

    The range of one that cannot exceed another ends at what the trial has of the other, and the
    other's begins where it leaves room for it: no trial is offered what the method refuses.
    """

    def __init__(
        self,
        declared: Mapping[str, Hyperparameter[Any]],
        params: Sequence[str] | None,
        fixed: Mapping[str, Any],
    ) -> None:
        self.declared = declared
        for name in (*fixed, *(params or ())):
            if name not in declared:
                raise unknown("hyperparameter", name, declared, "see: nasplug show METHOD")
        self.fixed = {name: declared[name].parse(value) for name, value in fixed.items()}
        chosen = params
        if chosen is None:
            chosen = [name for name in declared if not self._obstacle(name)]
            chosen = [name for name in chosen if self._reachable(name, chosen)]
        for name in chosen:
            if obstacle := self._obstacle(name):
                raise NasplugError(f"{name} cannot be tuned: {obstacle}")
            if not self._reachable(name, chosen):
                raise NasplugError(
                    f"{name} only matters if {declared[name].when}: tune or set that, too"
                )
        if not chosen:
            why = "the method declares nothing tunable" if params is None else "no name is given"
            raise NasplugError(f"there is nothing to tune: {why}")
        self.names = tuple(dict.fromkeys(self._parents_first(chosen, chosen)))

    @property
    def defaults(self) -> dict[str, Any]:
        """The tuned hyperparameters as the method ships them; inactive ones are left out."""
        values: dict[str, Any] = {}
        for name in self.names:
            if self._active(name, values):
                values[name] = self._range(name, values).default
        return values

    def suggest(
        self, trial: optuna.Trial, before: Callable[[str], None] = lambda name: None
    ) -> dict[str, Any]:
        """{name: value}, without those that the others make irrelevant; `before` is called with
        the name of each before it is suggested."""
        values: dict[str, Any] = {}
        for name in self.names:
            if self._active(name, values):
                before(name)
                values[name] = _suggest(trial, self._range(name, values))
        return values

    def _range(self, name: str, values: Mapping[str, Any]) -> Any:
        """Its declaration, within the bounds that the others leave it."""
        one = self.declared[name]
        if not isinstance(one, Int | Float):
            return one
        low, high = one.low, one.high
        if one.at_most:
            high = self._value(one.at_most, values)
        for other in self.declared.values():
            if other.at_most == name and other.name in self.names and not other.when:
                low = max(low, self._range(other.name, values).low)  # it will be what fits
            elif other.at_most == name:
                low = max(low, self._value(other.name, values))
        return narrowed(one, low, high)

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        """What it has, tuned before, set or by default."""
        return {**self.fixed, **values}.get(name, self.declared[name].default)

    def _active(self, name: str, values: Mapping[str, Any]) -> bool:
        parent, value = self._condition(name)
        if not parent:
            return True
        return bool(self._value(parent, values) == value and self._active(parent, values))

    def _reachable(self, name: str, params: Sequence[str]) -> bool:
        parent, _ = self._condition(name)
        return self._reachable(parent, params) if parent in params else self._active(name, {})

    def _condition(self, name: str) -> tuple[str, Any]:
        parent, _, value = self.declared[name].when.partition("=")
        return parent, self.declared[parent].parse(value) if parent else None

    def _parents_first(self, params: Sequence[str], chosen: Sequence[str]) -> Iterator[str]:
        for name in params:
            parent, _ = self._condition(name)
            decided = [one for one in (parent, self.declared[name].at_most) if one in chosen]
            yield from self._parents_first(decided, chosen)
            yield name

    def _obstacle(self, name: str) -> str:
        """Why it cannot be tuned, or ''."""
        one = self.declared[name]
        if name in self.fixed:
            return "it is set"
        if not one.tunable or not isinstance(one, Int | Float | Bool | Choice):
            return "the method declares it so"
        unbounded = isinstance(one, Int | Float) and not math.isfinite(one.high - one.low)
        return "it has no bounds" if unbounded else ""


def narrowed(one: Any, low: float = -math.inf, high: float = math.inf) -> Any:
    """A declared number, within these bounds and by itself, its default with it."""
    low, high = max(low, one.low), min(high, one.high)
    return replace(one, low=low, high=high, default=min(max(one.default, low), high), at_most="")


def _suggest(trial: optuna.Trial, one: Hyperparameter[Any]) -> Any:
    match one:
        case Int():
            return trial.suggest_int(one.name, int(one.low), int(one.high), log=one.log)
        case Float():
            return trial.suggest_float(one.name, one.low, one.high, log=one.log)
        case Choice():
            return trial.suggest_categorical(one.name, list(one.choices))
        case _:
            return trial.suggest_categorical(one.name, [False, True])
