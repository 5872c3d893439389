"""A finished search, as its directory tells it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.kernel.trial import ranked
from nasplug.run.directory import NONE, NUMBER, RunDirectory, Schema, read_json
from nasplug.run.report import incumbents

Column = npt.NDArray[np.float64]

SELECTION: Schema = {  # what a report reads of selection.json
    "trials": (int,), "failed": (int,), "seconds": NUMBER, "stopped": (str,),
    "subspace": (str, NONE), "best": {"arch": (str,)},
    "ranked": [{
        "arch": (str,), "value": (*NUMBER, NONE), "report": (*NUMBER, NONE), "fidelity": (int,),
        "metrics": (dict,), "params": (dict,),
    }],
}  # fmt: skip
READ = ("state", "value", "report", "fidelity", "feasible")  # of trials.csv


@dataclass(frozen=True)
class Run:
    """about: run.json; found: selection.json."""

    path: Path
    about: dict[str, Any]
    found: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> Run:
        """NasplugError if it is none, is damaged, or has not finished."""
        about = RunDirectory.open(path).run
        if not (path / "selection.json").exists():
            raise NasplugError(f"{path} has not finished: `nasplug resume {path}` goes on with it")
        found = read_json(path / "selection.json", SELECTION)
        if not found["ranked"]:
            raise NasplugError(f"{path} is damaged: its selection.json names no arch")
        return cls(path, about, found)

    @property
    def method(self) -> str:
        return str(self.about["method"])

    @property
    def seed(self) -> int:
        return int(self.about["options"]["seed"])

    @property
    def sign(self) -> int:
        return 1 if self.about["scores"]["maximize"] else -1

    @property
    def problem(self) -> tuple[str, str, str, int]:
        """Runs of the same one can be set side by side: problem, reward, report, direction."""
        scores = self.about["scores"]
        return scores["problem"], scores["reward"], scores["report"], self.sign

    @property
    def selected(self) -> dict[str, Any]:
        """The arch that it chose, with all that is known of it."""
        first: dict[str, Any] = self.found["ranked"][0]
        return first

    @property
    def objectives(self) -> tuple[str, ...]:
        """Those that its front is of, if there are several."""
        return tuple(self.found.get("objectives", ()))

    @property
    def settings(self) -> dict[str, Any]:
        """All that makes its trials but the seed: hyperparameters, and options that are set."""
        about, options = self.about, dict(self.about["options"])
        for name in ("seed", "at_once"):
            del options[name]
        for name in ("evaluator", "fidelity", "init", "prune", "workers"):
            options[name] = about[name]
        if about["within"]:
            options["within"] = "a subspace"
        return {
            **{name: x for name, x in options.items() if x not in (None, False, [], "")},
            **about["hyperparameters"],
        }

    @cached_property
    def trials(self) -> Mapping[str, Column]:
        """Columns of numbers, row = trial: value, report, and `best`, the row of the best so far
        (-1 before there is one)."""
        columns = _read_columns(self.path / "trials.csv")
        chosen = (columns["state"] == "complete") & (columns["feasible"] == "True")
        scores = np.where(chosen, self.sign * _numbers(columns["value"]), -np.inf)
        scores[np.isnan(scores)] = -np.inf
        failed = columns["state"] == "failed"
        return {
            "value": np.where(failed, np.nan, _numbers(columns["value"])),
            "report": _numbers(columns["report"]),
            "best": incumbents(ranked(scores, _numbers(columns["fidelity"]))),
        }

    def steps(self, column: str) -> tuple[Column, Column]:
        """When the best so far changed, counted from 1, and what its `column` was from then on; the
        last trial ends it."""
        best = self.trials["best"].astype(np.intp)
        at = np.flatnonzero(np.diff(best, prepend=-1))
        if not len(at):
            return np.empty(0), np.empty(0)
        at = np.append(at, len(best) - 1)
        return (at + 1).astype(float), self.trials[column][best[at]]


def groups(runs: Iterable[Run], key: str) -> dict[Any, list[Run]]:
    """Runs by one of their attributes, in the order in which it first occurs."""
    found: dict[Any, list[Run]] = {}
    for run in runs:
        found.setdefault(getattr(run, key), []).append(run)
    return found


def by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs of one problem that differ in nothing but the seed, by the name of their method with the
    settings in which they differ from others of that name: ``"NAME size=4"``."""
    found: dict[str, list[Run]] = {}
    for method, same in groups(runs, "method").items():
        settings = [{k: str(v) for k, v in run.settings.items()} for run in same]
        names = dict.fromkeys(name for one in settings for name in one)
        differ = [name for name in names if len({one.get(name) for one in settings}) > 1]
        for run, one in zip(same, settings, strict=True):
            words = [f"{name}={one[name]}" for name in differ if name in one]
            found.setdefault(" ".join([method, *words]), []).append(run)
    return found


def _read_columns(file: Path) -> dict[str, npt.NDArray[np.str_]]:
    """Some columns of trials.csv as text; one that it has not is empty."""
    try:
        with file.open(newline="", encoding="utf-8") as handle:
            rows = csv.reader(handle)
            names = next(rows, [])
            at = {name: names.index(name) for name in READ if name in names}
            cells = [[row[i] for i in at.values()] for row in rows]
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise NasplugError(f"{file} cannot be read: {error}") from None
    table = np.array(cells, dtype=str).reshape(len(cells), len(at))
    columns = dict(zip(at, table.T, strict=True))
    return {name: columns.get(name, np.full(len(cells), "")) for name in READ}


def _numbers(column: npt.NDArray[np.str_]) -> Column:
    """Text to numbers; an empty cell is NaN."""
    try:
        return np.where(column == "", "nan", column).astype(float)
    except ValueError as error:
        raise NasplugError(f"a trials.csv is damaged: {error}") from None
