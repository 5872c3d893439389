"""Every hook on one page. Mark an implementation with ``@nasplug.hookimpl``."""

# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from nasplug.search import Search
    from nasplug.selection import Selection
    from nasplug.space import Archs
    from nasplug.subspace import Region, Subspace
    from nasplug.trial import Trials

hookspec = pluggy.HookspecMarker("nasplug")
hookimpl = pluggy.HookimplMarker("nasplug")

# ---- the search loop


@hookspec(firstresult=True)
def sample_space(search: Search) -> Region | None:
    """Where to look this round. Default: all of ``search.region``."""


@hookspec(firstresult=True)
def propose(search: Search, subspace: Region) -> Archs | Subspace:
    """What to try there: (n, d) archs, or a subspace to treat as one relaxed network."""


@hookspec(firstresult=True)
def evaluate(search: Search, candidates: Trials | Subspace) -> Trials:
    """How good it is: ``candidates.tell(values=...)`` for the rows that wait; return them."""


@hookspec
def update(search: Search, trials: Trials) -> None:
    """Learn from it. Reaches every plugin."""


@hookspec(firstresult=True)
def select_final(search: Search) -> Selection | Archs | Subspace | None:
    """The answer: ranked archs, a subspace, or both. Default: the best trials."""


# ---- what a distribution announces


@hookspec
def register_methods(register: Callable[[str, Any], None]) -> None:
    """``register(name, MethodClass)``."""


@hookspec
def register_spaces(register: Callable[[str, Any], None]) -> None:
    """``register(name, factory)``; the factory returns a Space and may take options."""


@hookspec
def register_evaluators(register: Callable[[str, Any], None]) -> None:
    """``register(name, EvaluatorClass)``; see `nasplug.problem.Evaluator`."""
