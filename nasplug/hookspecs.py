"""Every hook on one page. Mark an implementation with ``@nasplug.hookimpl``."""

# mypy: disable-error-code="empty-body"

from __future__ import annotations

from typing import Any, TypeAlias

import pluggy

# The classes of `nasplug.kernel`, named and not imported: this page is below the kernel.
Search: TypeAlias = Any
Region: TypeAlias = Any
Archs: TypeAlias = Any
Trials: TypeAlias = Any
Selection: TypeAlias = Any
Register: TypeAlias = Any

hookspec = pluggy.HookspecMarker("nasplug")
hookimpl = pluggy.HookimplMarker("nasplug")

# ---- the search loop


@hookspec(firstresult=True)
def sample_space(search: Search) -> Region | None:
    """Where to look this round. Default: all of ``search.region``."""


@hookspec(firstresult=True)
def propose(search: Search, subspace: Region) -> Archs | Trials | Region:
    """What to try there: (n, d) archs, at fidelities ``search.candidates(archs, fidelities)``, or a
    region to treat as one relaxed network."""


@hookspec(firstresult=True)
def evaluate(search: Search, candidates: Trials | Region) -> Trials:
    """How good it is: ``candidates.tell(values=...)`` for the rows that wait; return them."""


@hookspec
def update(search: Search, trials: Trials) -> None:
    """Learn from it. Reaches every plugin."""


@hookspec(firstresult=True)
def select_final(search: Search) -> Selection | Archs | Region | None:
    """The answer: ranked archs, a subspace, or both. Default: the best trials."""


# ---- what a distribution announces: ``register(name, "module:Class", doc)``
#
# The module is imported when the name is used, so it may import torch at its top; `doc` is the
# line that lists show. A class that is imported already does too: ``register(name, Class)``.


@hookspec
def register_methods(register: Register) -> None:
    """Search methods: classes derived from `nasplug.Method`."""


@hookspec
def register_spaces(register: Register) -> None:
    """Spaces: what is called with options such as ``C=8`` and returns a Space."""


@hookspec
def register_evaluators(register: Register) -> None:
    """Evaluators, in order of preference: see `nasplug.kernel.problem.Evaluator`."""


@hookspec
def register_trackers(register: Register) -> None:
    """Trackers: a function that is called with a run directory when its search starts."""


@hookspec
def register_executors(register: Register) -> None:
    """Executors for ``workers="NAME:ADDRESS"``: a function that is called with the address, or "",
    and returns a `concurrent.futures.Executor` with ``max_workers``."""
