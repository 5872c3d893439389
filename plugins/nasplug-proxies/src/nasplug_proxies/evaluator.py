"""Zero-cost proxies as an evaluator: ``proxy:naswot``, ``proxy:naswot+synflow``."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nasplug import (
    Archs,
    Evaluator,
    NasplugError,
    Problem,
    Search,
    Space,
    Trial,
    Trials,
    hookimpl,
    problem,
    unknown,
)
from nasplug.nn import (
    Task,
    default_device,
    fixed_threads,
    initialise,
    load,
    mixed_seed,
    shapes,
    tabulated,
)
from nasplug_proxies.proxies import COUNTS, PROXIES, batch_of, measure

BATCH = 64  # training images that a proxy looks at, as in NAS-Bench-Suite-Zero
SAMPLE = 64  # random archs among which an arch is ranked, if there are several proxies
SIZED = ("digits", "cifar10")  # what spaces have sizes for: read when it is needed
KNOWN = (*PROXIES, *COUNTS)


class ProxyEvaluator(Evaluator):
    """Scores networks as they are initialised, by one batch of training images.

    One proxy is the value itself. Of several the value is the mean of their ranks, 0 to 1, among
    64 random archs of the space that are fixed by the seed and scored at first use: so it does not
    depend on what else is tried (see `Ranks`). The proxies are then metrics of the trial.

    A network's weights are fixed by the seed and the arch: the same value in any order and in any
    process. A proxy that is not finite, as of a network that passes nothing on, is a failed trial.
    Where a table knows the arch, what it reports is reported, for people; the search never sees it.

    data: a name that `nasplug.nn.load` knows, or images of the user's own; the loss is theirs.
    """

    option = "PROXY or PROXY+PROXY"
    maximize = True
    search: Search | None = None  # to which it says what it is doing

    def __init__(
        self, space: Space, data: Any, reward: str | None = None, report: str | None = None,
        seed: int = 0, option: str = "",
    ) -> None:  # fmt: skip
        self.names = option.split("+")
        if not option:
            raise NasplugError(
                "by which proxy? proxy:naswot, or several, proxy:naswot+synflow; "
                f"there are {', '.join(KNOWN)}"
            )
        for name in self.names:
            if name not in KNOWN:
                raise unknown("proxy", name, KNOWN)
        if not space.builds:
            raise NasplugError(f"{space.name} builds no networks that a proxy could score")
        if reward not in (None, option):
            raise unknown("metric of proxies", reward, [option])
        self.seed, self.images_of = seed, data
        if isinstance(data, str) and data in SIZED:
            space = space.for_data(data)
        else:
            self.images_of = load(data, seed)
            example = self.images_of.example
            real = isinstance(example, Tensor) and example.is_floating_point()
            if not real and set(self.names) - set(COUNTS):
                raise NasplugError(
                    "proxies look at one tensor of real numbers of each example, such as an image, "
                    f"got {shapes(example)}: score networks by training them (--evaluator train)"
                )
            space = self.images_of.size(space)
        self.space = self.region = space
        self.table = tabulated(space, data) if isinstance(data, str) else None
        if report:
            if not self.table:
                raise NasplugError(f"report={report!r} would be of a table, and there is none")
            self.table = problem(self.table.name, evaluator="table", report=report)
        self.reward = option
        self.report = self.table.report if self.table else "report"
        # What goes wrong with an arch is a failed trial, as with any function.
        self.function = Problem.of(space=space, evaluate=self._score).evaluator

    @hookimpl
    def evaluate(self, search: Search | None, candidates: Trials) -> Trials:
        if not len(candidates.waiting):
            return candidates
        self.search = search
        with fixed_threads(1):
            if len(self.names) > 1:
                _ = self.ranks  # not as a part of the first trial's cost
            self.function.evaluate(search, candidates)
        self._say("")
        return candidates

    def _say(self, activity: str) -> None:
        if self.search is not None:
            self.search.activity = activity

    def _score(self, arch: dict[str, Any], trial: Trial) -> dict[str, float]:
        values = self.measured(trial.arch)
        known = self.table.score(trial.arch[None]).reports if self.table else [np.nan]
        result = {"report": float(known[0])}
        if len(values) == 1:
            return {"value": values[0], **result}
        ranks = [rank(value) for rank, value in zip(self.ranks, values, strict=True)]
        metrics = dict(zip(self.names, values, strict=True))
        return {"value": float(np.mean(ranks)), **result, **metrics}

    def measured(self, arch: Archs) -> list[float]:
        """The proxies of one arch."""
        seed = mixed_seed(self.seed, *arch.tolist())
        net = None
        values = []
        for name in self.names:
            if name in COUNTS:
                values.append(float(getattr(self.space, name)(arch[None])[0]))
                continue
            batch, labels, task = self.batch
            if net is None:
                net = initialise(lambda: self.space.build(arch), seed).to(batch.device)
            values.append(measure(name, net, batch, labels, seed, task))
        return values

    @cached_property
    def batch(self) -> tuple[Tensor, Any, Task]:
        """Training images, their labels, and what networks learn of them."""
        if isinstance(self.images_of, str):
            self._say(f"reading {self.images_of}")
        images = load(self.images_of, self.seed).to(default_device())
        self._say("")
        return *batch_of(images, BATCH, self.seed), images.task

    @cached_property
    def ranks(self) -> list[Ranks]:
        """Of each proxy, among the sample."""
        rows = []
        for i, arch in enumerate(self.space.sample(SAMPLE, self.seed)):
            self._say(f"proxies of {SAMPLE} random archs, to rank by: {i}")
            rows.append(self.measured(arch))
        return [Ranks(np.array(column)) for column in zip(*rows, strict=True)]


class Ranks:
    """The empirical distribution function of a sample, interpolated: 0 to 1.

    Equal values share their mean rank. Below and above the sample it goes on towards 0 and 1
    without reaching them, so that the order of any two values is kept.

    >>> rank = Ranks(np.array([1.0, 2.0, 3.0, 4.0]))
    >>> rank(2.0), rank(2.5), rank(7.0)
    (0.375, 0.5, 0.9375)
    """

    def __init__(self, sample: npt.NDArray[np.float64]) -> None:
        sample = sample[np.isfinite(sample)]
        if not len(sample):
            raise NasplugError(f"a proxy is not finite for any of {SAMPLE} random archs: leave it")
        self.values, counts = np.unique(sample, return_counts=True)
        self.shares = (counts.cumsum() - counts / 2) / len(sample)
        self.spread = np.ptp(sample) or 1.0

    def __call__(self, value: float) -> float:
        if not np.isfinite(value):
            return float("nan")
        above = max(value - self.values[-1], 0.0) / self.spread
        below = max(self.values[0] - value, 0.0) / self.spread
        inside = np.interp(value, self.values, self.shares)
        top, bottom = 1 - self.shares[-1], self.shares[0]
        return float(inside + top * above / (1 + above) - bottom * below / (1 + below))
