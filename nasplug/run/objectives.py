"""Several objectives: what trials are worth to a method, the front, and its hypervolume.

Dominance, ranks and hypervolumes are moocore's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from moocore import hypervolume, is_nondominated, pareto_rank

from nasplug.errors import NasplugError, unknown
from nasplug.kernel.search import Search
from nasplug.kernel.trial import State, Trial, Trials
from nasplug.run.constraints import KNOWN
from nasplug.run.latency import LATENCY, note

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
Scalarise = Literal["chebyshev", "linear", "pareto"]

LASTS = 10  # trials for which weights stay, so that a method of small steps gets somewhere
SUM = 0.05  # of the weighted sum in a Chebyshev utility, so that of equals the dominating one wins


class Objectives:
    """A plugin of a search that is after several things: ``["val_acc", "-latency"]``.

    Each is the reward, by its name or the beginning of it, or a metric of the trials, or what the
    space tells of an arch; a minus before it is for what shall be small. Within, all are higher
    better: `points` are (n, m), the objectives' values with the sign turned where there is a minus.

    A method sees one utility per trial (`Trials.scores`). "chebyshev" (Knowles, ParEGO, 2006) and
    "linear" weigh the objectives, which are scaled to the front's range, by weights drawn anew
    every ten trials. "pareto" ranks the trials of one table as NSGA-II does (Deb et al., 2002): by
    front, within it by crowding distance; it is for methods that say ``pareto = True``.
    """

    def __init__(self, names: Sequence[str], scalarise: Scalarise | None = None) -> None:
        if not isinstance(names, list | tuple) or not all(isinstance(x, str) for x in names):
            raise NasplugError(
                f"objectives is a list of names such as ['val_acc', '-latency'], got {names!r}"
            )
        self.names = [name.removeprefix("-").strip() for name in names]
        self.signs = np.array([-1.0 if name.startswith("-") else 1.0 for name in names])
        if len(names) < 2 or len({*self.names}) < len(names):
            raise NasplugError(
                f"objectives are two or more different names, got {', '.join(names) or 'none'}; "
                "one alone is the reward"
            )
        if scalarise not in ("chebyshev", "linear", "pareto", None):
            raise NasplugError(f"scalarise is chebyshev, linear or pareto, got {scalarise!r}")
        self.scalarise = scalarise

    def setup(self, search: Search) -> None:
        if hasattr(search.method, "evaluate"):
            raise NasplugError(
                f"{search.method_name} trains one network, by one loss: objectives= is for methods "
                "that score archs; constraints= limits what else there is"
            )
        self.search = search
        self.reward = next(
            (i for i, x in enumerate(self.names) if x == "value" or search.problem.reward == x),
            next((i for i, x in enumerate(self.names) if search.problem.reward.startswith(x)), -1),
        )
        if self.reward >= 0 and (self.signs[self.reward] > 0) != search.maximize:
            sign = "" if search.maximize else "-"
            raise NasplugError(
                f"{search.problem.name} is to {'max' if search.maximize else 'min'}imise its "
                f"{search.problem.reward}: the objective is {sign}{self.names[self.reward]}"
            )
        by_rank = bool(getattr(search.method, "pareto", False))
        if self.scalarise == "pareto" and not by_rank:
            raise NasplugError(
                f"{search.method_name} compares scores of different tables, and ranks are of one: "
                "scalarise is chebyshev or linear"
            )
        self.scalarise = self.scalarise or ("pareto" if by_rank else "chebyshev")
        search.objectives = search.trials.objectives = self

    # ---- what trials are worth

    def measure(self, trials: Trials, rows: Rows) -> None:
        """Note what the space tells of archs that have been scored, if it is an objective."""
        rows = rows[trials.states[rows] == State.COMPLETE]
        for i, name in enumerate(self.names):
            if i == self.reward or not len(rows):
                continue
            if name in KNOWN:
                column = trials.metric(name)
                missing = rows[np.isnan(column[rows])]
                column[missing] = getattr(trials.space, name)(trials.archs[missing])
            elif name == LATENCY:
                note(trials, rows, self.search.latency)
            elif name not in trials.metrics:
                known = {self.search.problem.reward, *KNOWN, *trials.metrics}
                raise unknown("objective", name, known)

    def points(self, trials: Trials) -> Floats:
        """(n, m) higher better; NaN where a trial has not measured something."""
        return np.column_stack(self.columns(trials)) * self.signs

    def columns(self, trials: Trials) -> list[Floats]:
        """The objectives in the user's units, (n,) each."""
        unmeasured = np.full(len(trials), np.nan)
        return [
            trials.values if i == self.reward else trials.metrics.get(name, unmeasured)
            for i, name in enumerate(self.names)
        ]

    def utilities(self, trials: Trials) -> Floats:
        """(n,) what trials are worth now, higher better; NaN where something is unknown.

        The weights depend on the seed and the number of trials, the ranges on the front so far.
        """
        points = self.points(trials)
        if self.scalarise == "pareto":
            return ranking(points)
        low, high = _ranges(self._front_points())
        scaled = (points - high) / (high - low)  # 0 at the best, -1 at the worst of the front
        turn = self.search.finished // LASTS
        weights = np.random.default_rng((self.search.seed, turn)).dirichlet(np.ones(len(low)))
        if self.scalarise == "linear":
            return scaled @ weights
        utilities: Floats = (scaled * weights).min(1) + SUM * (scaled @ weights)
        return utilities

    @staticmethod
    def ranks(points: npt.ArrayLike, signs: Floats) -> Rows:
        """(n, m) in the user's units -> (n,) the number of each point's front, 0 for the best."""
        return fronts(np.asarray(points, float) * signs)

    def _front_points(self) -> Floats:
        _, points = self._eligible(self.search.trials)
        return points[is_nondominated(-points)] if len(points) else points

    def _eligible(self, trials: Trials) -> tuple[Rows, Floats]:
        """The rows that may be on the front, all of the highest fidelity, and their points."""
        points = self.points(trials)
        good = (trials.states == State.COMPLETE) & trials.feasible & ~trials.repeats
        good &= np.isfinite(points).all(1)
        good &= trials.fidelities == trials.fidelities[good].max(initial=0)
        return np.flatnonzero(good), points[good]

    # ---- what comes of it

    def front(self, trials: Trials) -> Front:
        """The trials that no other one dominates, the best by the first objective first."""
        rows, points = self._eligible(trials)
        if not len(rows):
            raise NasplugError("no trial has measured all objectives and keeps to the constraints")
        kept = np.flatnonzero(is_nondominated(-points))
        kept = kept[np.argsort(-points[kept, 0], kind="stable")]
        names = [f"{'-' if s < 0 else ''}{x}" for x, s in zip(self.names, self.signs, strict=True)]
        return Front(names, self.signs, trials.select(rows[kept]), points[kept], points.min(0))

    def final(self, trials: Trials) -> Floats:
        """(n,) scores once a search has ended: the front before the others, the knee first."""
        (rows, points), scores = self._eligible(trials), np.full(len(trials), -np.inf)
        if len(rows):
            kept = is_nondominated(-points)
            low, high = _ranges(points[kept])
            sums = ((points - low) / (high - low)).sum(1)
            scores[rows] = sums + kept * (1 + np.ptp(sums))
        return scores

    def volumes(self, trials: Trials) -> Floats:
        """(n,) the hypervolume of the trials until each, against the worst of all of them."""
        (rows, points), volumes = self._eligible(trials), np.zeros(len(trials))
        reference = points.min(0) if len(points) else np.zeros(len(self.names))
        front = points[:0]
        for row, point in zip(rows.tolist(), points, strict=True):
            if not (front >= point).all(1).any():
                front = np.concatenate([front[~(point >= front).all(1)], point[None]])
                volumes[row:] = volume(front, reference)
        return volumes


@dataclass
class Front:
    """The best compromises of a search: none can be better in one objective and no worse in others.

    names: the objectives, with a minus where less is better. trials: a table, best by the first
    objective first. reference: the worst of each objective among all trials, in the user's units.
    """

    names: list[str]
    _signs: Floats
    trials: Trials
    _points: Floats  # (k, m) higher better
    _worst: Floats

    @property
    def points(self) -> Floats:
        """(k, m) in the user's units."""
        return self._points * self._signs

    @property
    def columns(self) -> list[Floats]:
        """The objectives, (k,) each."""
        return [*self.points.T]

    @property
    def reference(self) -> list[float]:
        return (self._worst * self._signs).tolist()

    @property
    def hypervolume(self) -> float:
        """What the front dominates beyond the reference, a product of the objectives' units."""
        return self.volume(self.reference)

    def volume(self, reference: Sequence[float]) -> float:
        """The hypervolume against another reference point, in the user's units."""
        return volume(self._points, np.asarray(reference, float) * self._signs)

    @property
    def knee(self) -> Trial:
        """Where more of one objective begins to cost much of the others: the farthest from the
        plane through the extremes of the front."""
        return self.best()

    def best(self, weights: Sequence[float] | None = None) -> Trial:
        """The trial with the largest weighted sum of objectives, each scaled to the front's range;
        by default with equal weights, which is the knee."""
        given = np.ones(len(self.names)) if weights is None else np.asarray(weights, float)
        if given.shape != (len(self.names),) or not (given >= 0).all() or not given.any():
            raise NasplugError(f"weights are {len(self.names)} numbers, one per objective")
        return self.trials[int((self.scaled @ given).argmax())]

    @property
    def scaled(self) -> Floats:
        """(k, m) from 0, the worst of the front, to 1, its best."""
        low, high = _ranges(self._points)
        return (self._points - low) / (high - low)

    def rows(self) -> list[dict[str, Any]]:
        """The front as rows for people and files: trial, objectives, report, knee, arch."""
        plain, knee = [name.removeprefix("-") for name in self.names], self.knee.number
        return [
            {
                "trial": trial.number,
                **dict(zip(plain, point, strict=True)),
                "report": trial.report_value if np.isfinite(trial.report_value) else None,
                "knee": "knee" if trial.number == knee else "",
                "arch": str(trial),
            }
            for trial, point in zip(self.trials, self.points.tolist(), strict=True)
        ]

    def __len__(self) -> int:
        return len(self.trials)


def ranking(points: Floats) -> Floats:
    """(n, m) higher better -> (n,) NSGA-II's order as numbers, higher better: by the number of the
    front, within it by crowding distance, which counts from -1/2 to 0; NaN stays NaN."""
    ranked = np.full(len(points), np.nan)
    known = np.flatnonzero(np.isfinite(points).all(1))
    ranks = fronts(points[known])
    for rank in np.unique(ranks):
        rows = known[ranks == rank]
        distance = crowding(points[rows])
        ranked[rows] = -rank - 1 / (2 + distance)
    return ranked


def fronts(points: Floats) -> Rows:
    """(n, m) higher better -> (n,) the number of each point's front, 0 for the best."""
    return np.asarray(pareto_rank(-points)) if len(points) else np.empty(0, np.intp)


def crowding(points: Floats) -> Floats:
    """(n, m) -> (n,) the crowding distance of each point (Deb et al., 2002, section III-B)."""
    n, m = points.shape
    distance = np.zeros(n)
    for j in range(m):
        order = np.argsort(points[:, j], kind="stable")
        column = points[order, j]
        distance[order[[0, -1]]] = np.inf
        if n > 2 and column[-1] > column[0]:
            distance[order[1:-1]] += (column[2:] - column[:-2]) / (column[-1] - column[0])
    return distance


def volume(points: Floats, reference: Floats) -> float:
    """The hypervolume of points, higher better, above a reference."""
    return float(hypervolume(points, ref=reference, maximise=True))


def _ranges(points: Floats) -> tuple[Floats, Floats]:
    """The worst and the best of each objective, apart where they are one."""
    if not len(points):
        return np.zeros(points.shape[1]), np.ones(points.shape[1])
    low, high = points.min(0), points.max(0)
    return low, np.where(high > low, high, low + 1)
