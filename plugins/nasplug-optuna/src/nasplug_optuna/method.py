"""A sampler of Optuna as a method: it is asked for archs, and told their scores."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from nasplug import Archs, Bool, Method, Region, Search, Source, Space, Trials, hookimpl
from nasplug_optuna.samplers import make

TRIES = 20  # times to ask for an arch before the sampler is given one of the region


class OptunaSampler(Method):
    """Optuna: any of its samplers, or of OptunaHub's, by name.

    An arch that the sampler repeats, or an isomorph of one, is told its score at once, and costs
    nothing; one outside of the region is told to have failed.
    """

    asynchronous = True
    paper = (
        "Akiba et al., Optuna: a next-generation hyperparameter optimization framework, KDD 2019"
    )

    sampler = Source(
        "TPESampler",
        doc="a class of optuna.samplers, or a package of OptunaHub: hub:samplers/auto_sampler",
    )
    options = Source("{}", doc='what the sampler is made with, as JSON: {"multivariate": true}')
    ranges_only = Bool(
        False, tunable=False,
        doc="every decision is a range of whole numbers, for samplers that know no categories; "
        "else only those are whose choices are numbers in order",
    )  # fmt: skip

    def setup(self, search: Search) -> None:
        sampler = make(str(self.sampler), str(self.options), int(search.rng.integers(2**31)))
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(sampler=sampler, direction="maximize")
        optuna.logging.set_verbosity(before)
        self.distributions = distributions(search.space, self.ranges_only)
        self.told: dict[Any, float] = {}  # the score of each class of isomorphs
        self.asked: dict[Any, list[optuna.Trial]] = defaultdict(list)  # what is scored now

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Archs:
        found = [self.ask(search, subspace) for _ in range(max(1, search.wanted))]
        return np.array(found, search.space.dtype)

    def ask(self, search: Search, subspace: Region) -> Archs:
        """(d,) an arch of the region, a new one unless that is hard to find."""
        for _ in range(TRIES):
            trial = self.study.ask(self.distributions)
            arch, key = self.arch(search.space, trial)
            if not subspace.contains(arch[None])[0]:
                self.study.tell(trial, state=TrialState.FAIL)
            elif key in self.told:
                self.tell(trial, self.told[key])
            else:
                self.asked[key].append(trial)
                return arch
        drawn = subspace.sample(TRIES, search.rng)
        new = [arch for arch in drawn if search.space.classes(arch[None])[0] not in self.told]
        params = dict(zip(self.distributions, [*new, *drawn][0].tolist(), strict=True))
        self.study.enqueue_trial(params)
        trial = self.study.ask(self.distributions)
        arch, key = self.arch(search.space, trial)
        self.asked[key].append(trial)
        return arch

    @hookimpl
    def update(self, search: Search, trials: Trials) -> None:
        keys = search.space.classes(trials.archs).tolist()
        for key, score in zip(keys, trials.scores.tolist(), strict=True):
            self.told[key] = score
            for trial in self.asked.pop(key, []):
                self.tell(trial, score)

    def arch(self, space: Space, trial: optuna.Trial) -> tuple[Archs, Any]:
        """The arch of a trial, and a key that its isomorphs share."""
        arch = np.array([trial.params[name] for name in self.distributions], space.dtype)
        return arch, space.classes(arch[None]).tolist()[0]

    def tell(self, trial: optuna.Trial, score: float) -> None:
        """The score of an arch; -inf, where it failed or breaks a constraint, is a failed trial."""
        if np.isfinite(score):
            self.study.tell(trial, score)
        else:
            self.study.tell(trial, state=TrialState.FAIL)


def distributions(space: Space, ranges_only: bool = False) -> dict[str, BaseDistribution]:
    """The decisions of a space for Optuna: the index of the choice, as a range if choices are
    numbers in order, or if all are to be, else as a category."""
    return {
        name: IntDistribution(0, len(choices) - 1)
        if ranges_only or _in_order(list(choices))
        else CategoricalDistribution(range(len(choices)))
        for name, choices in space.decisions.items()
    }


def _in_order(choices: list[Any]) -> bool:
    numbers = all(isinstance(x, Real) and not isinstance(x, bool) for x in choices)
    return numbers and sorted(choices) == choices


class OptunaTPE(OptunaSampler):
    """Optuna's TPE: tree-structured Parzen estimators of good archs and of the others."""

    paper = "Bergstra et al., Algorithms for hyper-parameter optimization, NeurIPS 2011"


class OptunaNSGA2(OptunaSampler):
    """Optuna's NSGA-II: its genetic algorithm, of one objective here."""

    paper = "Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, TEC 2002"
    sampler = replace(OptunaSampler.sampler, default="NSGAIISampler")


class OptunaCMAES(OptunaSampler):
    """Optuna's CMA-ES: every decision as a range of whole numbers."""

    paper = "Hansen and Ostermeier, Completely derandomized self-adaptation, EC 2001"
    sampler = replace(OptunaSampler.sampler, default="CmaEsSampler")
    ranges_only = replace(OptunaSampler.ranges_only, default=True)


class OptunaRandom(OptunaSampler):
    """Optuna's random sampler: each decision by itself."""

    sampler = replace(OptunaSampler.sampler, default="RandomSampler")
