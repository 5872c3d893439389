"""Spaces, evaluators and cross-cutting plugins that are each wrong in one way."""

from __future__ import annotations

import threading
from typing import ClassVar

import numpy as np

from nasplug import Space, State, hookimpl
from nasplug.testing import TinySpace

# ---- spaces


class WritesTooLittle(TinySpace):
    """The width is not in its text."""

    def to_str(self, arch):
        return super().to_str(arch).rpartition(",")[0]

    def from_str(self, text):
        return super().from_str(f"{text},width=8")


class ReadsBackwards(TinySpace):
    """Reads decisions from the last to the first."""

    def from_str(self, text):
        ops = [part.partition("=")[2] for part in text.split(",")]
        names = [*self.names[:4][::-1], "width"]
        return self.from_dict(dict(zip(names, ops, strict=True)))


class SamplesAnything(TinySpace):
    """Forgets about validity."""

    def sample(self, n, seed=None):
        rng = np.random.default_rng(seed)
        archs = rng.integers(0, self.cardinalities, (n, self.d), self.dtype)
        archs[:3, :4] = 0
        return archs


class MovesOn(TinySpace):
    """Its canonical form is another one each time."""

    def canonical(self, archs):
        canonical = np.array(archs)
        canonical[:, 4] = (canonical[:, 4] + 1) % 3
        return canonical


class WritesOver(TinySpace):
    """Makes archs canonical where they are."""

    def canonical(self, archs):
        archs[archs[:, 3] == 0, 4] = 0
        return archs


class LooksUpward(TinySpace):
    """A neighbor is one step up: nobody's neighbor has him as one."""

    def neighbors(self, arch, distance=1):
        near = super().neighbors(arch, distance)
        return near[near.sum(1) > np.sum(arch)]


class MutatesFar(TinySpace):
    """Changes two decisions."""

    def mutate(self, archs, seed=None, distance=1):
        return super().mutate(archs, seed, 2)


class Named:
    """A choice that is named by where it lies."""

    def __repr__(self):
        return f"layer {id(self)}"


class NamesByAddress(Space):
    """Has another fingerprint in each process."""

    def __init__(self):
        super().__init__({"layer": [Named(), Named()], "width": range(8)}, "addressed")


class _Built(Space):
    """A linear layer of a width and a bias, or none, on images of one pixel."""

    shape = (3, 1, 1)

    def __init__(self):
        super().__init__({"width": [4, 8, 16], "bias": [0, 1]}, "built")

    def params(self, archs):
        width = np.array(self.decisions["width"])[archs[:, 0]]
        return 3 * width + width * archs[:, 1] + 2 * width

    def build(self, arch):
        from torch import nn

        width = self.decisions["width"][arch[0]]
        layer = nn.Linear(3, width, bias=bool(arch[1]))
        return nn.Sequential(nn.Flatten(), layer, nn.Linear(width, 2, bias=False))


class Builds(_Built):
    """Without a fault."""


class MiscountsParams(_Built):
    """Forgets the bias."""

    def params(self, archs):
        return super().params(archs * [1, 0])


class ChoosesTooWide(_Built):
    """A supernet with a class too many."""

    def supernet(self, region=None, partial=1):
        from torch import nn

        class Net(nn.Sequential):
            def chosen(self, archs):
                return archs[:, :, None] == np.arange(3)

            def mix(self, weights, mask, gates=None):
                pass

        return Net(nn.Flatten(), nn.Linear(3, 3))


# ---- evaluators


class Scores:
    """The sum of an arch: an evaluator without a fault."""

    maximize, reward, report = True, "value", "report"

    def __init__(self):
        self.space = self.region = TinySpace()

    def values(self, archs):
        return archs.sum(1).astype(float)

    @hookimpl
    def evaluate(self, search, candidates):
        rows = candidates.waiting
        return candidates.tell(rows, values=self.values(candidates.archs[rows]))


class SaysNothing(Scores):
    """Does not say what it returns."""

    reward = None


class SkipsTheLast(Scores):
    """Leaves out the last of several rows."""

    @hookimpl
    def evaluate(self, candidates):
        rows = candidates.waiting[: max(1, len(candidates.waiting) - 1)]
        return candidates.tell(rows, values=self.values(candidates.archs[rows]))


class Sorts(Scores):
    """Tells the values of several rows from the worst to the best."""

    def values(self, archs):
        return np.sort(super().values(archs))


class RanksThem(Scores):
    """A value depends on the others: it is centered."""

    def values(self, archs):
        values = super().values(archs)
        return values - values.mean() if len(values) else values


class CountsCalls(Scores):
    """Another value each time."""

    calls = 0

    def values(self, archs):
        self.calls += 1
        return super().values(archs) + self.calls


class SharesNoise(Scores):
    """Adds noise of numpy's own generator."""

    def values(self, archs):
        return super().values(archs) + np.random.random(len(archs))  # noqa: NPY002


class Raises(Scores):
    """Lets one arch end the search."""

    def values(self, archs):
        if (archs[:, 4] == 2).any():
            raise ValueError("a width of 24 does not fit")
        return super().values(archs)


class FailsSilently(Scores):
    """Fails an arch without a word."""

    @hookimpl
    def evaluate(self, candidates):
        rows = candidates.waiting
        archs = candidates.archs[rows]
        states = np.where(archs[:, 4] == 2, State.FAILED.value, State.COMPLETE.value)
        return candidates.tell(rows, values=self.values(archs), state=states)


class TellsAllAgain(Scores):
    """Scores every row, known or not."""

    @hookimpl
    def evaluate(self, candidates):
        candidates.states[:] = 0
        return candidates.tell(values=self.values(candidates.archs))


class HoldsALock(Scores):
    """Cannot be sent to a worker."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class KnowsTheRound(Scores):
    """Values grow with the rounds of a search."""

    @hookimpl
    def evaluate(self, search, candidates):
        rows = candidates.waiting
        rounds = 1 + search.round if search else 0
        return candidates.tell(rows, values=self.values(candidates.archs[rows]) + rounds)


# ---- plugins


class Counts:
    """Counts trials: a plugin without a fault."""

    def setup(self, search):
        self.trials = 0

    @hookimpl
    def update(self, trials):
        self.trials += len(trials)


class CountsSearches:
    """The class counts its searches, and begins each with another arch."""

    searches: ClassVar[list[object]] = []

    def setup(self, search):
        self.searches.append(search.seed)

    @hookimpl(wrapper=True)
    def propose(self, search):
        archs = yield
        if len(search.trials) or not isinstance(archs, np.ndarray):
            return archs
        return search.space.sample(1, len(self.searches))


class WantsTrials:
    """Asks a region for its rows."""

    @hookimpl(wrapper=True)
    def evaluate(self, candidates):
        candidates.notes.setdefault(0, {"seen": True})
        return (yield)


class AddsItsOwn:
    """Adds an arch, wherever the search may look."""

    @hookimpl(wrapper=True)
    def propose(self, search):
        archs = yield
        if not isinstance(archs, np.ndarray):
            return archs
        return np.concatenate([archs, search.space.sample(1, search.rng)])


class ShiftsValues:
    """Writes over what was scored."""

    @hookimpl
    def update(self, trials):
        trials.values -= 1.0


class StopsAtOnce:
    """Counts for itself when a search has had enough, over all searches that it is in."""

    def __init__(self):
        self.left = 30

    @hookimpl
    def update(self, search, trials):
        self.left -= len(trials)
        if self.left <= 0:
            search.stop("thirty are enough")
