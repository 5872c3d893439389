"""``init=``: the archs that a search tries first, whatever its method."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np

from nasplug.errors import NasplugError
from nasplug.hookspecs import hookimpl
from nasplug.kernel.problem import Problem
from nasplug.kernel.registry import registry
from nasplug.kernel.search import Search
from nasplug.kernel.selection import best_trials
from nasplug.kernel.space import Archs, Space
from nasplug.kernel.trial import Trials

POOL = 100  # random archs that an evaluator, such as a proxy, ranks
FIRST = 10  # of them that are tried first
HANDED_OVER = "init.txt"  # what a method may leave in the directory of a finished run


class Init:
    """A plugin that has some archs tried in the first round, in the place of the first of those
    that the method proposes: it learns from them as if they were its own.

    source: archs; a file with one per line; the directory of a finished run, for what that hands
        over in `init.txt`, or selected; or the name of an evaluator, for the best by it of a pool
        of random archs.
    ranked_by: opens what is searched with an `evaluator` of that name.
    """

    archs: Archs

    def __init__(self, source: Any, ranked_by: Callable[..., Problem] | None = None) -> None:
        self.source, self.ranked_by = source, ranked_by

    def setup(self, search: Search) -> None:
        if hasattr(search.method, "evaluate"):
            raise NasplugError(f"init: {search.method_name} trains one network, not first archs")
        if self.ranked_by and _names_evaluator(self.source):
            try:
                self.archs = best_of_pool(self.ranked_by(evaluator=self.source), search)
            except NasplugError as error:
                raise NasplugError(f"init={self.source!r}: {error}") from None
        else:
            self.archs = read_archs(self.source, search.space)
        if not (inside := search.region.contains(self.archs)).all():
            outside = search.space.to_str(self.archs[~inside][0])
            raise NasplugError(f"init: {outside} is not in {search.region.describe()}")

    @property
    def name(self) -> str:
        """The source for people; from run.json a search goes on with the archs themselves."""
        return str(self.source) if isinstance(self.source, str | Path) else "archs"

    @hookimpl(wrapper=True)
    def propose(self, search: Search) -> Generator[None, Archs, Archs]:
        proposed = yield
        if search.round:
            return proposed
        if isinstance(proposed, Trials):
            raise NasplugError(
                f"init: {search.method_name} tries its archs at fidelities of its own"
            )
        return np.concatenate([self.archs, proposed[len(self.archs) :]])


def best_of_pool(problem: Problem, search: Search) -> Archs:
    """The best by some evaluator of random archs of the region, no two isomorphic; they are fixed
    by the seed, and the method's own randomness is as without."""
    pool = search.region.sample(POOL, np.random.default_rng((search.seed, POOL)))
    return best_trials(problem.score(search.space.distinct(pool)), FIRST)


def _names_evaluator(source: Any) -> bool:
    """Whether it is one of those that are registered, or ``NAME:OPTION`` and no file."""
    if not isinstance(source, str) or Path(source).exists():
        return False
    return ":" in source or source in registry().evaluators


def read_archs(source: Any, space: Space) -> Archs:
    """Archs from an array, a list of strings, a file of them or a finished run; best first."""
    path = source if isinstance(source, str | Path) else None
    if path is not None:
        source = _read_file(Path(path))
    try:
        archs = [space.arch(arch) for arch in source]
    except (NasplugError, TypeError) as error:
        # Of a file nothing is shown: it may be any file of the user's.
        reason = f"{path} holds something that is no arch of {space.name}" if path else error
        raise NasplugError(f"init: {reason}") from None
    if not archs:
        raise NasplugError("init: there are no archs in it")
    return space.unique(np.array(archs))


def _read_file(path: Path) -> list[str]:
    """The arch strings of a file, or those that a finished run hands over, or selected."""
    try:
        if (path / HANDED_OVER).is_file():
            path /= HANDED_OVER
        if not path.is_dir():
            return [line for line in path.read_text().splitlines() if line.strip()]
        selected = json.loads((path / "selection.json").read_text())
        return [str(arch) for arch in selected["archs"]]
    except (OSError, UnicodeDecodeError) as error:
        fix = (
            f"; `nasplug resume {path}` finishes a run"
            if path.is_dir()
            else "; an evaluator is named as in proxy:naswot"
        )
        raise NasplugError(f"init: {path} cannot be read ({error}){fix}") from None
    except (ValueError, KeyError, TypeError):
        raise NasplugError(f"init: {path / 'selection.json'} lists no archs") from None
