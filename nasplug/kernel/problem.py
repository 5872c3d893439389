"""Problem: ``SPACE/DATA``, such as ``nb201/cifar10``, with the evaluator that scores it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy.typing as npt

from nasplug.errors import NasplugError, unknown
from nasplug.kernel.registry import plugin_manager, registry
from nasplug.kernel.space import Space
from nasplug.kernel.subspace import Region
from nasplug.kernel.trial import Trials

LARGEST = 10**9  # fidelity


class Evaluator(Protocol):
    """Scores candidates: a class registered by name, with a hook ``evaluate``.

    ``EvaluatorClass(space, data, reward=None, report=None, seed=0)`` opens it, where data is a name
    or, if the evaluator trains, a data set; what cannot be opened raises NasplugError. Evaluators
    are preferred in the order of their registration. One that looks scores up, or computes them in
    no time, says ``free = True``; one that scores isomorphic archs differently says
    ``apart = True``: else one of them is scored, and the others have its score. One that may be
    asked for as ``NAME:OPTION`` has an attribute `option`, what that is, and takes ``option=``; if
    `data` lists nothing, it is opened when it is named. One that can score an arch for less, and go
    on from there, says ``fidelity = (name, low, high)``, such as ``("epochs", 1, 12)``: it scores
    each row up to its fidelity; `reach(low, high)` sets other bounds, or raises NasplugError.
    """

    maximize: bool
    reward: str
    report: str
    region: Region  # what it can score: the space, sized for its data, or a subspace of it

    @classmethod
    def data(cls, space: Space) -> list[str]:
        """The data sets it can score this space on, here and now; none unless it says so."""
        return []

    @classmethod
    def missing(cls, space: Space, data: str) -> str:
        """What the user would have to do to make it score this, or '' if it needs no files.

        Raises NasplugError if a file is there, but damaged.
        """
        return ""


@dataclass
class Problem:
    """A space, the name of what it is scored on, and the evaluator that does it, if it is not
    the method that scores."""

    space: Space
    data: str
    evaluator: Any = None
    evaluator_name: str = "method"
    maximize: bool = True
    region: Region | None = None

    @classmethod
    def of(
        cls,
        on: str | None = None,
        *,
        space: Space | None = None,
        evaluate: Callable[..., Any] | None = None,
        data: Any = None,
        direction: str = "maximize",
        evaluator: str | None = None,
        reward: str | None = None,
        report: str | None = None,
        seed: int = 0,
        scores_itself: bool = False,
    ) -> Problem:
        """What to search, as `nasplug.search` and `nasplug.tune` are told it: a problem by name;
        or a space with a function that scores its archs, or with a data set to train them on.

        scores_itself: the method needs no evaluator.
        """
        if direction not in ("maximize", "minimize"):
            raise NasplugError(f"direction is 'maximize' or 'minimize', got {direction!r}")
        maximize = direction == "maximize"
        if on is not None:
            if not (space is None and evaluate is None and data is None):
                raise NasplugError("give on=, or a space with evaluate= or data=, not both")
            return problem(on, evaluator, reward, report, seed)
        if space is None:
            raise NasplugError(
                'what to search? on="nb201/digits", or a space and an evaluate function or data'
            )
        if not isinstance(space, Space):
            raise NasplugError(
                f"space must be a Space, as nasplug.Space(...) or nasplug.space(NAME): {space!r}"
            )
        if evaluate is not None and data is not None:
            raise NasplugError("give evaluate= or data=, not both: it says how archs are scored")
        if data is not None:
            name = evaluator or "train"
            scorer = _open(name, space, data, reward=reward, report=report, seed=seed)
            return cls(scorer.region.space, "data", scorer, name, scorer.maximize, scorer.region)
        for name, given in {"evaluator": evaluator, "reward": reward, "report": report}.items():
            if given is not None:
                raise NasplugError(f"{name}={given!r} is about a table or data: on= or data=")
        if evaluate is not None:
            scorer = registry().get("evaluator", "function")(space, evaluate, maximize)
            return cls(space, "function", scorer, "function", maximize, space)
        if scores_itself:
            return cls(space, "method", maximize=maximize, region=space)
        raise NasplugError(
            "how are archs of the space scored? Give evaluate=, a function, or data=, a data set"
        )

    @property
    def name(self) -> str:
        return f"{self.space.name}/{self.data}"

    @property
    def reward(self) -> str:
        """The name of the reward."""
        return str(getattr(self.evaluator, "reward", "value"))

    @property
    def free(self) -> bool:
        """Whether scoring an arch costs next to nothing, so that thousands may be."""
        return bool(getattr(self.evaluator, "free", False))

    @property
    def fidelity(self) -> tuple[str, int, int] | None:
        """(name, low, high) of what an arch may be scored at, such as epochs, if there is one."""
        return getattr(self.evaluator, "fidelity", None)

    @property
    def full(self) -> int:
        """The highest fidelity, at which archs are scored if nothing is said; 0 without one."""
        return self.fidelity[2] if self.fidelity else 0

    def reach(self, bounds: Sequence[int] | None) -> None:
        """Score at fidelities from low to high, if bounds are given."""
        if bounds is None:
            return
        whole = isinstance(bounds, tuple | list) and all(isinstance(x, int) for x in bounds)
        if not (whole and len(bounds) == 2 and 1 <= bounds[0] <= bounds[1] < LARGEST):
            raise NasplugError(f"fidelity is (low, high), as (1, 27) epochs; got {bounds!r}")
        if not hasattr(self.evaluator, "reach"):
            raise NasplugError(
                f"{self.name} is scored by its {self.evaluator_name}, which has no fidelity: "
                "leave fidelity= away"
            )
        self.evaluator.reach(*bounds)

    @property
    def apart(self) -> bool:
        """Whether isomorphic archs have scores of their own, such as in a table of all archs."""
        return bool(getattr(self.evaluator, "apart", False))

    @property
    def report(self) -> str:
        """The name of what is reported."""
        return str(getattr(self.evaluator, "report", "report"))

    def score(self, archs: npt.ArrayLike) -> Trials:
        """(n, d) archs -> their trials by the evaluator, outside of any search."""
        archs = self.space.check(archs)
        return self.scorer()(Trials(self.space, archs, self.maximize, fidelities=self.full))

    def scorer(self) -> Callable[[Trials], Trials]:
        """What scores the trials that wait."""
        if self.evaluator is None:
            raise NasplugError(f"{self.name} has no evaluator: its method scores what it trains")
        manager = plugin_manager()
        manager.register(self.evaluator)

        def score(trials: Trials) -> Trials:
            manager.hook.evaluate(search=None, candidates=trials)
            return trials

        return score


def space(name: str) -> Space:
    """A space by name: ``"nb201"``, with options ``"nb201:C=8,N=1"``, or a JSON file that holds a
    learned one, ``"runs/cells/learned-space.json"``."""
    base, _, text = str(name).partition(":")
    try:
        pairs = [pair.split("=") for pair in text.split(",") if pair.strip()]
        options = {
            option.strip(): (float if "." in value else int)(value) for option, value in pairs
        }
    except ValueError:
        raise NasplugError(
            f"{name!r} is no space: options read NAME=NUMBER, such as nb201:C=8,N=1"
        ) from None
    if base.endswith(".json"):
        learned: Space = import_module("nasplug.spaces.learned").Learned.load(base)
        return learned.sized(**options) if options else learned
    factory = registry().get("space", base)
    try:
        return factory(**options)
    except TypeError:
        raise NasplugError(f"{base} takes no options, or others than {text!r}") from None


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
    sized = space(space_name).for_data(data)
    passed: list[Any] = []  # evaluators that cannot score it
    reasons: list[str] = []
    for candidate, cls in _evaluators(evaluator, reasons):
        known = cls.data(sized)
        if data not in known and (known or not (evaluator and hasattr(cls, "option"))):
            passed.append(cls)
            continue
        if passed and cls.missing(sized, data):
            for better in passed:  # such as a table: not to be replaced by hours of training
                better.missing(sized, data)
        scorer = _open(candidate, sized, data, reward=reward, report=report, seed=seed)
        return Problem(sized, data, scorer, candidate, scorer.maximize, scorer.region)
    others = {d for cls in passed for d in cls.data(sized)}
    fixes = [fix for cls in passed if (fix := cls.missing(sized, data))]
    fix = "; ".join(fixes or reasons[:1])
    if not others and not fix:
        who = f"evaluator {evaluator} scores no" if evaluator else "no installed evaluator scores"
        raise NasplugError(
            f"{who} archs of {space_name}; a function of yours can (evaluate=), or an earlier run "
            "(--evaluator predictor:RUN_DIR)"
        )
    scored = f" scored by {evaluator}" if evaluator else ""
    raise unknown(f"problem{scored}", data, others, fix, prefix=f"{space_name}/")


def _open(evaluator: str, space: Space, data: Any, **rest: Any) -> Any:
    """An evaluator by ``NAME`` or ``NAME:OPTION``."""
    name, colon, option = evaluator.partition(":")
    cls = registry().get("evaluator", name)
    if colon and not hasattr(cls, "option"):
        raise NasplugError(f"evaluator {name} takes no option, got {evaluator!r}")
    return cls(space, data, **rest, **({"option": option} if colon else {}))


def _evaluators(name: str | None, reasons: list[str]) -> Iterator[tuple[str, Any]]:
    """Every evaluator, or one, and its class, loaded when it comes to it; why others do not load
    is added to `reasons`."""
    for one in [name] if name else registry().evaluators:
        try:
            yield one, registry().get("evaluator", one.partition(":")[0])
        except NasplugError as error:
            if name:
                raise
            reasons.append(str(error))


def problems() -> list[dict[str, Any]]:
    """Every problem that can be opened here: name, its evaluators (the default first)."""
    rows = []
    for name in registry().spaces:
        found = space(name)
        scored: dict[str, list[str]] = {}
        for evaluator, cls in _evaluators(None, []):
            for data in cls.data(found):
                scored.setdefault(data, []).append(evaluator)
        rows += [{"problem": f"{name}/{d}", "evaluators": scored[d]} for d in sorted(scored)]
    return rows
