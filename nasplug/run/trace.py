"""``NASPLUG_TRACE=1``: every hook call of a search, by whom it was answered and how long that took,
on stderr; at its end the sums."""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

from nasplug.kernel.search import Search


@contextmanager
def traced(search: Search) -> Iterator[None]:
    """What happens within is traced, if the environment variable says so."""
    if not os.environ.get("NASPLUG_TRACE"):
        yield
        return
    trace = Trace(search)
    try:
        yield
    finally:
        trace.sum_up()


class Trace:
    """The hook calls of a search: each is written as it ends, and kept for the sums."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        names = search.plugin_names
        _write("round", "hook", "plugin", "ms")
        for hook in vars(search.pm.hook).values():
            for one in getattr(hook, "get_hookimpls", list)():
                timed = _timed_wrapper if one.wrapper else _timed
                note = partial(self._note, one.function.__name__, names[id(one.plugin)])
                one.function = timed(one.function, note)

    def _note(self, hook: str, plugin: str, seconds: float) -> None:
        self.seconds[hook, plugin].append(seconds)
        _write(str(self.search.round), hook, plugin, f"{1e3 * seconds:.3f}")

    def sum_up(self) -> None:
        """A line per hook and plugin."""
        _write("calls", "hook", "plugin", "ms")
        for (hook, plugin), seconds in self.seconds.items():
            _write(str(len(seconds)), hook, plugin, f"{1e3 * sum(seconds):.3f}")


Note = Callable[[float], None]


def _timed(function: Callable[..., Any], note: Note) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            note(time.perf_counter() - start)

    return call


def _timed_wrapper(
    function: Callable[..., Generator[None, Any, Any]], note: Note
) -> Callable[..., Generator[None, Any, Any]]:
    """Of a wrapper its own time counts, before and after what it wraps."""

    @wraps(function)
    def call(*arguments: Any) -> Generator[None, Any, Any]:
        wrapper, spent = function(*arguments), 0.0

        def go_on(step: Callable[[], Any]) -> Any:
            nonlocal spent
            start = time.perf_counter()
            try:
                return step()
            finally:
                spent += time.perf_counter() - start

        try:
            go_on(partial(next, wrapper))
            try:
                answer = yield
            except BaseException as error:
                go_on(partial(wrapper.throw, error))
            else:
                go_on(partial(wrapper.send, answer))
        except StopIteration as end:
            return end.value
        finally:
            note(spent)

    return call


def _write(first: str, hook: str, plugin: str, milliseconds: str) -> None:
    line = f"trace {first:>6}  {hook:<12}  {plugin:<24}  {milliseconds:>12}"
    print(line, file=sys.stderr, flush=True)
