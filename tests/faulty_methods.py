"""Methods that are each wrong in one way, and one that is not: what `nasplug check` has to tell."""

from __future__ import annotations

import random
import time
from typing import ClassVar

import numpy as np

from nasplug import Float, Int, Method, hookimpl


class Correct(Method):
    """Mutates the best arch so far, or now and then samples anew: a stranger without a fault."""

    asynchronous = True
    explore = Float(0.2, low=0, high=1, doc="share of fresh samples")

    def setup(self, search):
        self.best, self.height = None, -np.inf

    @hookimpl
    def propose(self, search, subspace):
        if self.best is None or search.rng.random() < self.explore:
            return subspace.sample(search.wanted, search.rng)
        return subspace.mutate(np.repeat(self.best[None], search.wanted, 0), search.rng)

    @hookimpl
    def update(self, trials):
        for arch, score in zip(trials.archs, trials.scores.tolist(), strict=True):
            if score > self.height:
                self.best, self.height = arch.copy(), score


class Checkpointed(Correct):
    """The same with a state: no fault either."""

    def state(self):
        return {"best": [] if self.best is None else self.best, "height": float(self.height)}

    def load_state(self, state):
        self.best = np.asarray(state["best"]) if len(state["best"]) else None
        self.height = state["height"]


# ---- what they remember


class LeaksOverSearches(Correct):
    """The class remembers the best arch of every search."""

    heights: ClassVar[list[float]] = []

    def setup(self, search):
        super().setup(search)
        self.height = max(self.heights, default=-np.inf)

    @hookimpl
    def update(self, trials):
        super().update(trials)
        self.heights.append(self.height)


class NeverForgets(Correct):
    """An object that has searched goes on from where it ended."""

    def __init__(self, **hyperparameters):
        super().__init__(**hyperparameters)
        self.best, self.height = None, -np.inf

    def setup(self, search):
        pass


class ForgetsItsState(Checkpointed):
    """The height of the best is not in the checkpoint."""

    def load_state(self, state):
        super().load_state(state)
        self.height = -np.inf


class StatesObjects(Checkpointed):
    """A set is neither array nor JSON."""

    def state(self):
        return super().state() | {"seen": {1, 2}}


# ---- randomness


class SharesRandomness(Correct):
    """Draws from Python's own generator."""

    @hookimpl
    def propose(self, search, subspace):
        if self.best is None or random.random() < self.explore:
            return subspace.sample(search.wanted, search.rng)
        return subspace.mutate(np.repeat(self.best[None], search.wanted, 0), search.rng)


class IgnoresTheSeed(Correct):
    """Has a generator of its own."""

    def setup(self, search):
        super().setup(search)
        search.rng = np.random.default_rng(1234)


# ---- where they look


class IgnoresWithin(Correct):
    """Samples the space whatever the region is."""

    @hookimpl
    def propose(self, search, subspace):
        return search.space.sample(search.wanted, search.rng)


class MutatesByHand(Correct):
    """Takes isomorphs for new archs, and what is not valid for archs."""

    @hookimpl
    def propose(self, search, subspace):
        if self.best is None or search.rng.random() < self.explore:
            return subspace.sample(search.wanted, search.rng)
        while True:
            mutant = self.best.copy()
            i = search.rng.integers(search.space.d)
            mutant[i] = search.rng.integers(search.space.cardinalities[i])
            if subspace.contains(mutant[None])[0] and (mutant != self.best).any():
                return mutant[None]


class SelectsTheHighest(Correct):
    """Selects by value, whatever the constraints."""

    @hookimpl
    def select_final(self, search):
        values = np.nan_to_num(search.trials.values, nan=-np.inf, neginf=-np.inf)
        return search.trials.archs[[values.argmax() if search.maximize else values.argmin()]]


class ListsTheSpace(Correct):
    """Ranks all points at the start."""

    def setup(self, search):
        super().setup(search)
        self.order = search.rng.permutation(np.arange(search.space.size))


class WantsTwoChoices(Correct):
    """Draws another choice of a decision that may have only one."""

    @hookimpl
    def propose(self, search, subspace):
        archs = subspace.sample(search.wanted, search.rng)
        offset = [search.rng.integers(1, c) for c in search.space.cardinalities]
        assert min(offset) > 0
        return archs


# ---- how they learn


class MutatesTheHistory(Correct):
    """Turns the values of others to have the highest as the best."""

    @hookimpl
    def update(self, search, trials):
        trials.values -= np.nanmean(trials.values)
        super().update(trials)


class MisreadsTheDirection(Correct):
    """Climbs by value."""

    @hookimpl
    def update(self, trials):
        for arch, value, score in zip(trials.archs, trials.values, trials.scores, strict=True):
            if value > self.height and np.isfinite(score):
                self.best, self.height = arch.copy(), value


class TrustsFailures(Correct):
    """Takes the value of a failed trial for one."""

    @hookimpl
    def update(self, trials):
        values = trials.values if trials.maximize else -trials.values
        for arch, value in zip(trials.archs, values, strict=True):
            if value > self.height:
                self.best, self.height = arch.copy(), value


class ForgetsFailures(Correct):
    """Tries a list of archs one by one, and goes on when one is complete."""

    def setup(self, search):
        super().setup(search)
        self.queue = search.region.sample(200, search.rng)

    @hookimpl
    def propose(self, search, subspace):
        return self.queue[:1] if len(self.queue) else subspace.sample(1, search.rng)

    @hookimpl
    def update(self, trials):
        self.queue = self.queue[int(np.isfinite(trials.scores).sum()) :]


class ExpectsOne(Correct):
    """Learns from the first trial of a round, and from no more."""

    asynchronous = False

    @hookimpl
    def update(self, trials):
        assert len(trials) == 1
        super().update(trials)


class NotAsynchronous(Correct):
    """Says that it learns in any order, and expects what it has proposed last."""

    @hookimpl
    def propose(self, search, subspace):
        self.last = subspace.sample(search.wanted, search.rng)
        return self.last

    @hookimpl
    def update(self, trials):
        assert set(map(tuple, trials.archs)) <= set(map(tuple, self.last))


# ---- budget, bounds, time


class StopsOneShort(Correct):
    """Off by one: proposes nothing when one trial is left."""

    @hookimpl
    def propose(self, search, subspace):
        if search.remaining <= 1:
            return np.empty((0, search.space.d), search.space.dtype)
        return super().propose(search, subspace)


class BreaksAtItsBound(Correct):
    """A tournament of none has no winner."""

    rivals = Int(3, low=0, high=10, doc="in a tournament")

    @hookimpl
    def propose(self, search, subspace):
        rivals = subspace.sample(self.rivals, search.rng)
        return rivals[[np.argmax(rivals.sum(1))]]


class MisspellsAnAblation(Correct):
    """It has no such hyperparameter."""

    ablations = {"no tournament": {"rivals": 1}}  # noqa: RUF012 - read only


class Dawdles(Correct):
    """Thinks for long."""

    @hookimpl
    def update(self, trials):
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        super().update(trials)
