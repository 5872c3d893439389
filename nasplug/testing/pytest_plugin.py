"""Fixtures for the tests of plugins, wherever nasplug is installed.

pytest loads this module in every session, so that it imports what it needs when that is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nasplug.kernel.problem import Problem
    from nasplug.kernel.selection import Selection


@pytest.fixture
def tiny_problem() -> Problem:
    """A problem on which a search takes milliseconds: see `nasplug.testing.tiny_problem`."""
    from nasplug.testing import tiny_problem

    return tiny_problem()


@pytest.fixture
def run_search(tiny_problem: Problem) -> Callable[..., Selection]:
    """``run_search(method, budget=20, seed=3, within=...)``: a search of the tiny problem, or of
    ``problem=``, in memory; the method is an object or a name."""
    from nasplug.run.api import find_method, make_search

    def search(
        method: Any, *, problem: Problem = tiny_problem, budget: int = 20, **options: Any
    ) -> Selection:
        found, name = find_method(method, {})
        return make_search(problem, found, name, budget=budget, **options).run()

    return search
