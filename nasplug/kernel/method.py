"""Hyperparameters of a method, declared once as class attributes.

>>> class Mine(Method):
...     K = Int(4, low=1, high=64, doc="number of candidate subspaces")
>>> Mine(K=8).K
8

From the declaration come validation, ``--set K=8``, the Optuna search space, the tracked
params and ``nasplug show``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, overload

from nasplug.errors import NasplugError, unknown
from nasplug.hookspecs import Search

if TYPE_CHECKING:
    from nasplug.kernel.space import Space

T = TypeVar("T")


@dataclass
class Hyperparameter(Generic[T]):
    """A declaration; on an instance of the method the attribute is the value itself."""

    default: T
    doc: str = ""
    tunable: bool = True
    when: str = ""  # "name=value": only matters if that other hyperparameter has that value
    at_most: str = ""  # the name of another one, which it cannot exceed
    name: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Method, owner: type) -> T: ...
    def __get__(self, instance: Method | None, owner: type) -> Self | T:
        return self if instance is None else instance.hyperparameters[self.name]

    def __set__(self, instance: Method, value: T) -> None:
        raise NasplugError(
            f"{self.name} is fixed once the method is there, since the run records it: "
            f"{type(instance).__name__}({self.name}={value!r})"
        )

    def parse(self, value: Any) -> T:
        """A value of the right type and within bounds, from Python or from text."""
        raise NotImplementedError

    def refuse(self, value: Any, expected: str) -> NasplugError:
        return NasplugError(f"hyperparameter {self.name} must be {expected}, got {value!r}")

    @property
    def bounds(self) -> str:
        return ""


@dataclass
class _Number(Hyperparameter[T]):
    low: float = -math.inf
    high: float = math.inf
    log: bool = False
    kind: ClassVar[tuple[type, str]] = (float, "a number")

    def parse(self, value: Any) -> Any:
        cls, name = self.kind
        try:
            number = cls(str(value))
        except ValueError:
            raise self.refuse(value, name) from None
        if not self.low <= number <= self.high:
            raise self.refuse(value, f"within {self.bounds}")
        return number

    @property
    def bounds(self) -> str:
        limit = f", at most {self.at_most}" if self.at_most else ""
        return f"[{self.low:g}, {self.high:g}]{' log' if self.log else ''}{limit}"


class Int(_Number[int]):
    """A whole number in [low, high]."""

    kind = (int, "a whole number")


class Float(_Number[float]):
    """A number in [low, high]."""


class Bool(Hyperparameter[bool]):
    """True or False."""

    def parse(self, value: Any) -> bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if str(value).lower() not in words:
            raise self.refuse(value, "true or false")
        return words[str(value).lower()]

    @property
    def bounds(self) -> str:
        return "true | false"


@dataclass
class Choice(Hyperparameter[str]):
    """One of some words."""

    choices: Sequence[str] = ()

    def parse(self, value: Any) -> str:
        if str(value) not in self.choices:
            raise self.refuse(value, f"one of {', '.join(self.choices)}")
        return str(value)

    @property
    def bounds(self) -> str:
        return " | ".join(self.choices)


@dataclass
class Source(Hyperparameter[Any]):
    """Something to start from, such as archs, a file or a run directory; never tuned."""

    tunable: bool = False

    def parse(self, value: Any) -> Any:
        if isinstance(value, str | Path) and Path(value).exists():
            return str(Path(value).absolute())  # a run is resumed from wherever one stands
        return value


class Method:
    """A paper: owns its state, declares its hyperparameters, implements hooks with `hookimpl`.

    `paper` is the citation; the first line of the docstring is what lists show. `problem` is what
    the command line searches if nothing is said: really trained, nothing to download. `ablations`
    are the variants with which `nasplug ablate` compares the method, by what they are called:
    ``{"without the graph": {"graph": False}}``.
    """

    paper: ClassVar[str] = ""
    problem: ClassVar[str] = "nb201/digits"
    ablations: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    asynchronous: ClassVar[bool] = False  # whether it can learn from trials in any order
    pareto: ClassVar[bool] = False  # whether it compares scores within a table or `search.scores`

    def __init__(self, **hyperparameters: Any) -> None:
        declared = self.declared()
        for name in hyperparameters:
            if name not in declared:
                raise unknown("hyperparameter", name, declared, f"of {type(self).__name__}")
        given = {name: declared[name].parse(value) for name, value in hyperparameters.items()}
        self.hyperparameters = {name: one.default for name, one in declared.items()} | given
        for name, one in declared.items():
            value, limit = getattr(self, name), getattr(self, one.at_most or name)
            if one.at_most and value > limit:
                raise NasplugError(f"{name} ({value}) cannot exceed {one.at_most} ({limit})")

    def setup(self, search: Search) -> None:
        """Called once before the first round: check the hyperparameters against the space, make
        what is needed. All randomness comes from ``search.rng``, or is seeded from it."""

    @classmethod
    def declared(cls) -> dict[str, Hyperparameter[Any]]:
        """{name: declaration}, in the order of declaration; a plain value in a subclass fixes a
        hyperparameter of its base."""
        found: dict[str, Hyperparameter[Any]] = {}
        for base in reversed(cls.__mro__):
            for name, value in vars(base).items():
                if isinstance(value, Hyperparameter):
                    found[name] = value
                else:
                    found.pop(name, None)
        return found

    @classmethod
    def ranges(cls, space: Space) -> dict[str, Hyperparameter[Any]]:
        """{name: declaration} with which a study tunes a hyperparameter on this space instead of
        its own: bounds within which all of it makes sense there, and the default in figures.

        With ``L = Int(0, doc="operations; 0: two per edge")``, on a space of 6 edges:
        ``{"L": replace(cls.L, default=12, low=7, high=30)}``.
        """
        return {}

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint must hold: nested dicts of arrays and JSON values.

        None (the default) means that replaying the journal from the start is cheap enough.
        """
        return None

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        raise NotImplementedError
