"""A study of hyperparameters, as its directory tells it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasplug.errors import NasplugError
from nasplug.reports.tables import Rows
from nasplug.run.directory import Schema, misfit, read_json

STUDY: Schema = {  # what a report reads of study.json
    "nasplug": (str,), "name": (str,), "method": (str,), "problem": (str,), "reward": (str,),
    "tuned": (list,), "objectives": (list,), "seeds": (list,), "budget": (int,),
    "maximized": (bool,),
    "environment": {"python": (str,), "platform": (str,), "versions": (dict,)},
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """about: study.json; trials: of trials.csv, numbers where they are numbers."""

    path: Path
    about: dict[str, Any]
    trials: Rows

    @classmethod
    def open(cls, path: Path) -> Study:
        """NasplugError if it is damaged, or no trial of it has finished."""
        about = read_json(path / "study.json")
        if name := misfit(about, STUDY):
            raise NasplugError(f"{path} is damaged: its study.json has no {name} that makes sense")
        try:
            with (path / "trials.csv").open(newline="", encoding="utf-8") as handle:
                trials = [
                    {name: _value(text) for name, text in row.items()}
                    for row in csv.DictReader(handle)
                ]
        except FileNotFoundError:
            raise NasplugError(
                f"{path} has not finished: the same `nasplug tune --out {path}` goes on"
            ) from None
        except (OSError, ValueError, AttributeError, csv.Error) as error:
            raise NasplugError(f"{path / 'trials.csv'} cannot be read: {error}") from None
        wanted = {"number", "state", *about["objectives"], *about["tuned"]}
        if not trials or (lost := wanted.difference(trials[0])):
            raise NasplugError(f"{path / 'trials.csv'} has no {min(lost) if trials else 'trial'}")
        return cls(path, about, trials)

    @property
    def complete(self) -> Rows:
        return [row for row in self.trials if row["state"] == "complete"]

    @property
    def best(self) -> Rows:
        """The complete trials, best first by the first objective; the defaults are trial 0."""
        name, sign = self.about["objectives"][0], 1 if self.about["maximized"] else -1
        shown = ["number", *self.about["objectives"], "report", *self.about["tuned"]]
        ranked = sorted(self.complete, key=lambda row: -sign * row[name])
        return [{key: row.get(key) for key in shown} for row in ranked]

    def column(self, name: str) -> Sequence[Any]:
        return [row[name] for row in self.complete]


def _value(text: str) -> float | int | str | None:
    """A cell of trials.csv."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.removeprefix("'") or None
