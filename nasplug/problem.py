"""Problem: ``SPACE/DATA``, such as ``nb201/cifar10``, with the evaluator that scores it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError, unknown
from nasplug.plugins import registry
from nasplug.space import Space
from nasplug.subspace import Region
from nasplug.trial import Trials


class Evaluator(Protocol):
    """Scores candidates: a class registered by name, with a hook ``evaluate``.

    ``EvaluatorClass(space, data, reward=None, report=None, seed=0)`` opens it; what cannot
    be opened raises NasplugError. Evaluators are preferred in the order of their registration.
    """

    maximize: bool
    reward: str
    report: str
    region: Region  # what it can score: the space, or a subspace of it

    @classmethod
    def data(cls, space: Space) -> list[str]:
        """The data sets it can score this space on, here and now."""

    @classmethod
    def missing(cls, space: Space, data: str) -> str:
        """What the user would have to do to make it score this, or '' if it needs no files.

        Raises NasplugError if a file is there, but damaged.
        """


@dataclass
class Problem:
    """A space, the name of what it is scored on, and the evaluator that does it, if it is not
    the method that scores."""

    space: Space
    data: str
    evaluator: Any
    evaluator_name: str
    maximize: bool = True
    region: Region | None = None

    @property
    def name(self) -> str:
        return f"{self.space.name}/{self.data}"


def space(name: str) -> Space:
    """A space by name: ``"nb201"``, with options ``"open-cells:layers=6,C=8"``, or a JSON file
    that holds a learned one."""
    if str(name).endswith(".json"):
        from nasplug.spaces.learned import Learned

        return Learned.load(name)
    base, _, text = str(name).partition(":")
    factory = registry().get("space", base)
    try:
        pairs = [pair.split("=") for pair in text.split(",") if text]
        options = {option.strip(): int(value) for option, value in pairs}
        made: Space = factory(**options)
    except (TypeError, ValueError):
        raise NasplugError(
            f"{name!r} is no space: options read NAME=NUMBER, such as open-cells:layers=6,C=8, and "
            f"{base} may have none"
        ) from None
    return made


def problem(
    name: str,
    evaluator: str | None = None,
    reward: str | None = None,
    report: str | None = None,
    seed: int = 0,
) -> Problem:
    """Open a problem by name. By default the first evaluator that can score it does."""
    space_name, slash, data = str(name).rpartition("/")
    if not slash or not data:
        raise NasplugError(f"a problem is named SPACE/DATA, such as nb201/digits; got {name!r}")
    made = space(space_name).for_data(data)
    found = registry()
    names = [evaluator] if evaluator else list(found.evaluators)
    for i, candidate in enumerate(names):
        cls = found.get("evaluator", candidate)
        if data in cls.data(made):
            if i and cls.missing(made, data):
                for better in names[:i]:  # such as a table: not to be replaced by hours of training
                    found.evaluators[better].missing(made, data)
            scorer = cls(made, data, reward=reward, report=report, seed=seed)
            return Problem(made, data, scorer, candidate, scorer.maximize, scorer.region)
    fixes = (found.evaluators[n].missing(made, data) for n in names)
    known = {d for n in names for d in found.evaluators[n].data(made)}
    scored = f" scored by {evaluator}" if evaluator else ""
    fix = next(filter(None, fixes), "")
    raise unknown(f"problem{scored}", data, known, fix, prefix=f"{space_name}/")


def problems() -> list[dict[str, Any]]:
    """Every problem that can be opened here: name, its evaluators (the default first)."""
    found = registry()
    rows = []
    for name in found.spaces:
        made = space(name)
        scored: dict[str, list[str]] = {}
        for evaluator, cls in found.evaluators.items():
            for data in cls.data(made):
                scored.setdefault(data, []).append(evaluator)
        rows += [{"problem": f"{name}/{d}", "evaluators": scored[d]} for d in sorted(scored)]
    return rows


class Constraint:
    """A limit such as ``flops <= 300e6``: on ``params``, ``flops`` or a metric of the trials."""

    def __init__(self, text: str) -> None:
        match = re.fullmatch(r"\s*([\w@/.-]+?)\s*(<=|>=|<|>)\s*([-+\d.eE]+)\s*", text)
        try:
            self.limit = float(match[3]) if match else np.nan
        except ValueError:
            match = None
        if not match:
            raise NasplugError(
                f"a constraint reads NAME <= NUMBER, such as flops<=300e6; got {text!r}"
            )
        self.name, self.operator = match[1], match[2]

    def holds(self, trials: Trials, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        """Which of these rows keep to it."""
        if self.name in trials.metrics:
            column = trials.metrics[self.name][rows]
        elif self.name in ("params", "flops"):
            column = getattr(trials.space, self.name)(trials.archs[rows])
        else:
            raise unknown("constraint on", self.name, ["params", "flops", *trials.metrics])
        compare = {"<=": np.less_equal, "<": np.less, ">=": np.greater_equal, ">": np.greater}
        return np.asarray(compare[self.operator](column, self.limit))
