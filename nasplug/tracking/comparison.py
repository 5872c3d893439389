"""ComparisonSender: a comparison directory -> an experiment of its own, once it has ended.

It has a run per method, whose metrics are the mean curves: on the page of the experiment, MLflow
draws those of all methods into one chart per problem. One more run holds tables and pictures. Only
the tracking process imports this module.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.entities import Metric

from nasplug.run.directory import read_json
from nasplug.tracking.sender import Sender, _experiment, _finite, _name

CURVES = ("report", "value")  # of bands.csv
FINAL = ("mean", "std", "median", "value", "cost", "seconds", "p_best")  # of summary.csv


class ComparisonSender(Sender):
    """Call `advance` until `done`."""

    artifacts = ("comparison.json", "*.csv", "table.md", "table.tex", "*.png", "*.html")

    def _record(self) -> dict[str, Any]:
        return read_json(self.path / "comparison.json")

    def _begin(self, status: Mapping[str, Any]) -> bool:
        """The run of tables and pictures. What was interrupted is sent when it has gone on."""
        if status["state"] == "finished":
            return super()._begin(status)
        if status["state"] != "running":
            self._finish(status)
        return status["state"] != "running"

    def _anything(self) -> bool:
        return True

    def _experiment(self) -> str:
        return _experiment(self.uri, os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.path.name)

    # ---- what is sent

    def _params(self) -> dict[str, Any]:
        run = self._run
        names = {
            kind: ", ".join(one["name"] for one in run[kind]) for kind in ("methods", "problems")
        }
        limits = {name: run[name] for name in ("budget", "max_cost", "max_seconds", "seeds")}
        return {**names, **{name: x for name, x in limits.items() if x is not None}}

    def _send(self) -> bool:
        """The next method, whole."""
        number = self._notes["sent"]
        if number == len(self._run["methods"]):
            return False
        about = self._run["methods"][number]
        start = self._when(0.0)
        run_id = self._create(f"{self._run['key']}-{number}", about["name"], start, self._tags())
        params = {"method": about["method"], **about["hyperparameters"]}
        metrics, last = [], 0
        for row in self._rows_of("bands.csv", about["name"]):
            last = round(float(row["x"]))
            metrics += _metrics(row["problem"], row, CURVES, start, last)
        for row in self._rows_of("summary.csv", about["name"]):
            metrics += _metrics(f"{row['problem']} final", row, FINAL, start + last, 0)  # bars
        self._log(metrics, params, run_id)
        self._client.set_terminated(run_id, "FINISHED", start + last)
        self._note(sent=number + 1, trials=number + 1)
        self._unsure = False
        return True

    def _rows_of(self, name: str, method: str) -> list[dict[str, str]]:
        with (self.path / name).open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if row["method"] == method]

    def _summarise(self, status: Mapping[str, Any]) -> None:
        self._end(status, self._text(status, {}), int(1000 * status["time"]))

    def _text(self, status: Mapping[str, Any], selected: Mapping[str, Any]) -> str:
        return (self.path / "table.md").read_text(encoding="utf-8")


def _metrics(
    section: str, row: Mapping[str, str], names: Sequence[str], start: int, step: int
) -> list[Metric]:
    """What is known of some columns; MLflow shows what goes by the same section together."""
    points = _finite(**{name: float(row[name]) if row[name] else None for name in names})
    return [Metric(_name(f"{section}/{k}"), x, start + step, step) for k, x in points.items()]
