"""Comparison: a comparison directory as tidy tables, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError, lacking
from nasplug.run.directory import Schema, misfit, read_json

try:
    import pandas as pd

    from nasplug.comparison.statistics import holm, interval, paired
except ImportError as error:
    raise lacking("comparing", error) from None

FORMAT = 1  # of the comparison directory
POINTS = 200  # of a curve
LEVEL = 0.05  # of tests

COMPARISON: Schema = {
    "format": (int,), "nasplug": (str,), "key": (str,),
    "methods": [{"name": (str,), "method": (str,), "hyperparameters": (dict,), "version": (str,)}],
    "problems": [{
        "name": (str,), "reward": (str,), "report": (str,), "maximize": (bool,),
        "evaluator": (str,),
    }],
    "budget": (int,), "max_cost": (int, float, type(None)), "max_seconds": (int, float, type(None)),
    "constraints": (list,), "seeds": (int,), "environment": {"time": (str,), "command": (list,)},
}  # fmt: skip


class Comparison:
    """What a comparison directory holds.

    about: comparison.json. methods, problems: their names, in the order in which they were given.
    searches: a row per search: problem, method, seed, report and value of the arch that it
        selected, its trials, how many of them failed, their cost, its seconds, and the arch.
    curves: a row per incumbent of a search: after how many trials, at what cost and after how many
        seconds it was found, its report and value.

    Raises NasplugError for what is no comparison, or one that has not ended.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.about = read_json(self.path / "comparison.json")
        if (written := self.about.get("format")) is None:
            raise NasplugError(f"{path} is no comparison directory: it has no comparison.json")
        if written != FORMAT:
            raise NasplugError(
                f"{path} was written in format {written}, and this version reads {FORMAT}: compare "
                "again, which takes the searches that are kept"
            )
        if name := misfit(self.about, COMPARISON):
            raise NasplugError(f"{path} is damaged: its comparison.json has no {name}")
        self.methods = [one["name"] for one in self.about["methods"]]
        self.problems = [one["name"] for one in self.about["problems"]]

    @cached_property
    def searches(self) -> pd.DataFrame:
        return self._read("searches.csv")

    @cached_property
    def curves(self) -> pd.DataFrame:
        return self._read("curves.csv")

    def _read(self, name: str) -> pd.DataFrame:
        try:
            text = {"method": str, "problem": str}  # NA and null are names like others
            return pd.read_csv(self.path / name, dtype=text, keep_default_na=False, na_values="")
        except FileNotFoundError:
            raise NasplugError(
                f"{self.path} has no {name}: the comparison has not ended; the same command goes on"
            ) from None

    # ---- one problem

    def problem(self, name: str) -> dict[str, Any]:
        """What comparison.json says of it."""
        found: dict[str, Any] = self.about["problems"][self.problems.index(name)]
        return found

    def measured(self, problem: str) -> str:
        """The column by which methods are compared: "report", or "value" where some search has no
        report."""
        known = self.searches[self.searches.problem == problem].report.notna().all()
        return "report" if known else "value"

    def label(self, problem: str, column: str = "") -> str:
        """What the problem calls a column, by default the one that is measured."""
        known = self.problem(problem)
        name: str = known["report" if (column or self.measured(problem)) == "report" else "reward"]
        return name

    def final(self, problem: str, column: str = "") -> pd.DataFrame:
        """A row per seed, a column per method: what each search has selected."""
        rows = self.searches[self.searches.problem == problem]
        wide = rows.pivot(index="seed", columns="method", values=column or self.measured(problem))
        return wide[self.methods]

    @property
    def axis(self) -> str:
        """What the budget is counted in: "trial", "cost" or "seconds"."""
        limits = {"cost": self.about["max_cost"], "seconds": self.about["max_seconds"]}
        return next((name for name, limit in limits.items() if limit is not None), "trial")

    def at(self, problem: str, method: str, column: str, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """(seeds, len(x)) what the incumbent had at these moments; NaN before there was one."""
        rows = self.curves[(self.curves.problem == problem) & (self.curves.method == method)]
        found = []
        for _, curve in rows.groupby("seed"):
            values = np.append(np.nan, curve[column])
            found.append(values[np.searchsorted(curve[self.axis], x, side="right")])
        return np.array(found)

    # ---- all of them

    def bands(self) -> pd.DataFrame:
        """Anytime curves: problem, method, x, and mean, low and high of `report` and of `value`
        over the seeds, from the moment on at which all have an incumbent."""
        return self._bands

    @cached_property
    def _bands(self) -> pd.DataFrame:
        x = self._moments()
        parts = []
        for problem in self.problems:
            for method in self.methods:
                part = {"problem": problem, "method": method, "x": x}
                for column in ("report", "value"):
                    curves = self.at(problem, method, column, x)
                    low, high = interval(curves.T)
                    part |= {
                        column: curves.mean(0), f"{column}_low": low, f"{column}_high": high
                    }  # fmt: skip
                parts.append(pd.DataFrame(part).dropna(subset="value"))
        return pd.concat(parts, ignore_index=True)

    def _moments(self) -> npt.NDArray[Any]:
        end = {"cost": self.about["max_cost"], "seconds": self.about["max_seconds"]}.get(self.axis)
        if end is not None:
            return np.linspace(0, end, POINTS + 1)[1:]
        most = self.about["budget"]
        return np.unique(np.linspace(1, most, min(most, POINTS)).round().astype(int))

    def summary(self) -> pd.DataFrame:
        """A row per problem and method: mean and standard deviation of what is compared, its
        median, 95 % bootstrap intervals of both, mean and deviation of the value, means of trials,
        cost and seconds, and the p, by Holm's correction, that it is as good as the best."""
        return self._summary

    @cached_property
    def _summary(self) -> pd.DataFrame:
        return pd.DataFrame(self._summarised())

    def _summarised(self) -> Iterator[dict[str, Any]]:
        tests = self.tests()
        for problem in self.problems:
            column, maximize = self.measured(problem), self.problem(problem)["maximize"]
            final = self.final(problem)
            means = final.mean()
            best = means.idxmax() if maximize else means.idxmin()
            for method in self.methods:
                rows = self.searches[
                    (self.searches.problem == problem) & (self.searches.method == method)
                ]
                scores = final[method].to_numpy()
                low, high = interval(scores)
                median_low, median_high = interval(scores, np.median)
                pair = tests[
                    (tests.problem == problem)
                    & (
                        ((tests.method == method) & (tests.other == best))
                        | ((tests.method == best) & (tests.other == method))
                    )
                ]
                yield {
                    "problem": problem, "method": method, "measured": column, "seeds": len(scores),
                    "mean": scores.mean(), "std": _deviation(scores),
                    "mean_low": low, "mean_high": high,
                    "median": np.median(scores),
                    "median_low": median_low, "median_high": median_high,
                    "value": rows.value.mean(), "value_std": _deviation(rows.value.to_numpy()),
                    "trials": rows.trials.mean(), "cost": rows.cost.mean(),
                    "seconds": rows.seconds.mean(),
                    "best": method == best,
                    "p_best": pair.p_holm.iloc[0] if len(pair) else np.nan,
                }  # fmt: skip

    def tests(self) -> pd.DataFrame:
        """A row per problem and pair of methods: the mean gain of `method` over `other`, seed by
        seed, positive if it is better, with its 95 % bootstrap interval; wins, ties and losses; the
        p of Wilcoxon's signed-rank test, and p_holm, corrected for all pairs of the problem."""
        return self._tests

    @cached_property
    def _tests(self) -> pd.DataFrame:
        parts = []
        for problem in self.problems:
            sign = 1 if self.problem(problem)["maximize"] else -1
            final = self.final(problem)
            rows = [
                {
                    "problem": problem, "method": one, "other": other,
                    **paired(sign * (final[one] - final[other]).to_numpy()),
                }
                for one, other in combinations(self.methods, 2)
            ]  # fmt: skip
            part = pd.DataFrame(rows)
            parts.append(part.assign(p_holm=holm(part.p.to_numpy())))
        return pd.concat(parts, ignore_index=True)

    def ranks(self) -> pd.Series:
        """The rank of each method, 1 is best, by its mean on a problem; mean over the problems."""
        return self.means().rank(axis=1).mean()

    def means(self) -> pd.DataFrame:
        """A row per problem, a column per method: the mean of what is compared, smaller better."""
        signs = {name: -1 if self.problem(name)["maximize"] else 1 for name in self.problems}
        rows = {name: signs[name] * self.final(name).mean() for name in self.problems}
        return pd.DataFrame(rows).T[self.methods]


def _deviation(samples: npt.NDArray[Any]) -> float:
    return float(np.std(samples, ddof=1)) if len(samples) > 1 else np.nan
