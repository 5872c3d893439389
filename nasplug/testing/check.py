"""Check: one named statement about a plugin, which holds, fails or does not apply."""

from __future__ import annotations

import inspect
import unittest
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

Function = TypeVar("Function", bound=Callable[..., None])


class CheckFailed(AssertionError):  # noqa: N818 - what has failed is the plugin
    """What was expected, what happened, and the fix."""


class NotApplicable(unittest.SkipTest):
    """A check that says nothing about this plugin, and why; pytest shows it as skipped."""


class Result(NamedTuple):
    """What came of a check: `found` is the reason unless it is ok."""

    name: str
    state: Literal["ok", "failed", "not applicable"]
    expected: str
    found: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Check:
    """Call it: returns if the statement holds, else raises `CheckFailed` or `NotApplicable`.

    name: what pytest shows as its id. expected: the statement. fix: what to do if it fails.
    """

    name: str
    expected: str
    fix: str
    function: Callable[[], None] = field(repr=False)

    @property
    def __name__(self) -> str:  # by which pytest names parameters
        return self.name

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> None:
        result = self.result()
        if result.state == "not applicable":
            raise NotApplicable(result.found)
        if result.state == "failed":
            raise CheckFailed(_words(result))

    def result(self) -> Result:
        """Like a call, without raising."""
        try:
            self.function()
        except NotApplicable as reason:
            return Result(self.name, "not applicable", self.expected, str(reason))
        except AssertionError as found:
            words, *_ = str(found).split("\nassert ")  # what pytest adds, where it rewrites them
            return Result(self.name, "failed", self.expected, words, self.fix)
        except Exception as error:  # whatever a plugin raises
            found_ = f"{type(error).__name__}: {error}"
            return Result(self.name, "failed", self.expected, found_, self.fix)
        return Result(self.name, "ok", self.expected)


class Checks:
    """Statements about one kind of plugin, in the order in which they were added."""

    def __init__(self) -> None:
        self._functions: list[tuple[Callable[..., None], str]] = []

    def add(self, fix: str) -> Callable[[Function], Function]:
        """Decorates ``function(subject)``: its name and docstring are those of the check."""

        def keep(function: Function) -> Function:
            self._functions.append((function, fix))
            return function

        return keep

    def of(self, subject: Any) -> list[Check]:
        """All of them, about one plugin."""
        return [
            Check(f.__name__, inspect.cleandoc(f.__doc__ or ""), fix, partial(f, subject))
            for f, fix in self._functions
        ]


def results(checks: Iterable[Check]) -> Iterator[Result]:
    """What comes of checks, one after the other."""
    return (check.result() for check in checks)


def run_all(checks: Iterable[Check]) -> None:
    """Raises one `CheckFailed` that names every check that failed."""
    failed = [result for result in results(checks) if result.state == "failed"]
    if failed:
        names = ", ".join(result.name for result in failed)
        raise CheckFailed("\n".join([f"failed: {names}", *map(_words, failed)]))


def _words(result: Result) -> str:
    return (
        f"{result.name}\n  expected: {result.expected}\n  happened: {result.found}\n"
        f"  fix: {result.fix}"
    )
