"""What a cross-cutting plugin (a cache, a filter, a tracker) leaves as it was."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from nasplug.hookspecs import hookimpl
from nasplug.kernel.method import Method
from nasplug.kernel.search import Search
from nasplug.kernel.space import Archs
from nasplug.kernel.subspace import Region
from nasplug.kernel.trial import Trials
from nasplug.testing import methods
from nasplug.testing.bench import Bench, difference
from nasplug.testing.check import Check, Checks, run_all

checks = Checks()


def plugin_checks(plugin: Any) -> list[Check]:
    """The checks of what ``nasplug.search(..., plugins=[plugin])`` takes: an object or a class."""
    return checks.of(WithPlugin(plugin() if isinstance(plugin, type) else plugin))


def check_plugin(plugin: Any) -> None:
    """All of them at once; raises one `CheckFailed` that names those that failed."""
    run_all(plugin_checks(plugin))


class Samples(Method):
    """Samples at random, as many archs as are wanted."""

    asynchronous = True

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Archs:
        return subspace.sample(search.wanted, search.rng)


class TrainsRegions(Method):
    """Proposes its region as one network, and scores an arch of it itself."""

    @hookimpl
    def propose(self, subspace: Region) -> Region:
        return subspace

    @hookimpl
    def evaluate(self, search: Search, candidates: Trials | Region) -> Trials | None:
        if isinstance(candidates, Trials):
            return None
        trials = search.candidates(candidates.sample(1, search.rng))
        return trials.tell(values=np.array([float(len(search.trials))]))


class WithPlugin(Bench):
    """Searches at random, with a fresh copy of a plugin."""

    def __init__(self, plugin: Any, method: Method | None = None) -> None:
        super().__init__(method or Samples())
        self.plugin = copy.deepcopy(plugin)

    def plugins(self, *more: Any) -> list[Any]:
        return [copy.deepcopy(self.plugin), *super().plugins(*more)]


checks.add("mend what the error says")(methods.searches)
checks.add("return what is wrapped, and end a search by `search.stop(reason)` alone")(
    methods.spends_its_budget
)
checks.add("draw from `search.rng`; let nothing depend on the clock or on other searches")(
    methods.same_seed_same_trials
)
checks.add("use `search.rng` instead of numpy.random, random and torch's own generator")(
    methods.leaves_global_randomness_alone
)
checks.add("copy what you change: `trials` are what everybody reads")(
    methods.leaves_the_history_alone
)
checks.add("keep state on `self`, made in `setup(search)`; never on the class or the module")(
    methods.searches_share_nothing
)
checks.add("handle every row of `trials`, those that failed or were pruned as well")(
    methods.goes_on_after_failures
)
checks.add("let through what lies in `search.region`, and add nothing else")(methods.stays_in_a_set)
checks.add("expect any number of candidates in a round")(methods.takes_workers)
checks.add("let what is proposed and how it is scored depend on the trials alone")(
    methods.resumes_as_if_never_interrupted
)


@checks.add("make all that a search remembers in `setup(search)`")
def begins_anew(bench: WithPlugin) -> None:
    """A plugin object that was in a search before is in the next as if it were new."""
    plugin = copy.deepcopy(bench.plugin)
    random = Bench(Samples())
    first, second = (random.search(plugins=[plugin]).search.trials for _ in range(2))
    changed = difference(first, second)
    assert not changed, changed


@checks.add("hand on candidates that are no `Trials`: a region is trained as one network")
def hands_regions_on(bench: WithPlugin) -> None:
    """A method that proposes a region and scores it itself does so with the plugin, too."""
    trains = WithPlugin(bench.plugin, TrainsRegions())
    n = len(trains.search().search.trials)
    assert n == trains.budget, f"{n} trials with a budget of {trains.budget}"
