"""StudySender: a study directory -> a parent run, and a child run per search.

A search is three calls to MLflow, however many trials it had: of its curve, the moments are sent
at which the best changed. Only the tracking process imports this module.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mlflow.entities import Metric

from nasplug.run.directory import read_json
from nasplug.tracking import read_lines
from nasplug.tracking.locks import Presence
from nasplug.tracking.sender import TAG, Sender, _finite, _line, _name, _short

JOINING = 30.0  # seconds to wait for the parent run of a study that was begun elsewhere
CURVE = 250  # its last moments
BATCH = 20  # lines of searches.jsonl sent before looking at anything else


class StudySender(Sender):
    """Call `advance` until `done`."""

    artifacts = (
        "best.json", "pareto.json", "trials.csv", "study.json", "plots.html", "history.png",
        "importance.png", "parallel.png", "slice.png", "pareto.png",
    )  # fmt: skip

    def _record(self) -> dict[str, Any]:
        return read_json(self.path / "study.json")

    def _in_use(self) -> bool:
        return any(Presence.seen(file) for file in self.path.glob("tune-*.lock"))

    def _begin(self, status: Mapping[str, Any]) -> bool:
        """The parent run; all machines that work on the study have the same."""
        if self._run["joined"] and time.monotonic() - self._born < JOINING:
            self._unsure = True
            if self._find(self._notes["key"]) is None:
                self._next = time.monotonic() + 1.0
                return False
        return super()._begin(status)

    def _anything(self) -> bool:
        return (self.path / "searches.jsonl").exists()

    # ---- what is sent

    def _send(self) -> bool:
        lines = read_lines(self.path / "searches.jsonl", self._notes["offset"])[:BATCH]
        for record, offset in lines:
            if "ended" in record:
                self._note(offset=offset, best=self._send_trial(record))
            else:
                self._send_search(record)
                self._note(offset=offset, trials=self._notes["trials"] + 1)
                self._unsure = False
        return bool(lines)

    def _send_search(self, record: Mapping[str, Any]) -> None:
        """A child run, whole."""
        start = int(1000 * record["start"])
        seconds, last = record.get("seconds", 0.0), record.get("trials", 1) - 1
        end = start + int(1000 * seconds)
        tags = {
            "mlflow.parentRunId": self._notes["run_id"],
            "mlflow.note.content": _short(record.get("error") or f"`{_line(record['arch'])}`", TAG),
        }
        name = f"trial-{record['trial']}-seed-{record['seed']}"
        run_id = self._create(record["key"], name, start, tags)
        params = {
            **{name: self._run[name] for name in ("method", "problem", "budget")},
            **{name: record[name] for name in ("trial", "seed")},
            **record["hyperparameters"],
        }
        curve = record.get("curve", [])
        metrics = [
            Metric(name, x, start + int(1000 * seconds * (step + 1) / (last + 1)), step)
            for step, value, report in curve[-CURVE:]
            for name, x in _finite(best_value=value, best_report=report).items()
        ]
        if curve:
            final = _finite(
                best_value=curve[-1][1], best_report=curve[-1][2], cost=record["cost"],
                selected_value=record["value"], selected_report=record["report"],
                seconds=seconds, trials=record["trials"],
            )  # fmt: skip
            metrics += [Metric(name, x, end, last) for name, x in final.items()]
        self._log(metrics, params, run_id)
        self._client.set_terminated(run_id, "FAILED" if record.get("error") else "FINISHED", end)

    def _send_trial(self, record: Mapping[str, Any]) -> list[Any] | None:
        """A trial of the study, as a step of the parent's metrics; returns the best so far."""
        names, seeds = self._run["objectives"], record["objectives"]
        means = [sum(column) / len(seeds) for column in zip(*seeds, strict=True)]
        points = dict(zip(names, means, strict=True)) | _finite(report=record["report"])
        points["seeds"] = len(seeds)
        best: list[Any] | None = self._notes["best"]
        if record["state"] == "complete":
            sign = 1 if self._run["maximized"] else -1
            if best is None or sign * means[0] > sign * best[1]:
                best = [record["ended"], means[0], record["report"]]
                points |= _finite(**{f"best_{names[0]}": means[0], "best_report": best[2]})
        when = int(1000 * record["time"])
        metrics = [Metric(_name(name), x, when, record["ended"]) for name, x in points.items()]
        self._log(metrics)
        return best

    def _params(self) -> dict[str, Any]:
        run = self._run
        names = ("method", "problem", "evaluator", "reward", "budget", "seed")
        lists = {name: ",".join(map(str, run[name])) for name in ("tuned", "objectives", "seeds")}
        return {**{name: run[name] for name in names}, **run["fixed"], **lists}

    def _summarise(self, status: Mapping[str, Any]) -> None:
        best = read_json(self.path / "best.json") if status["state"] == "finished" else {}
        self._end(status, self._text(status, best), int(1000 * status["time"]))

    def _text(self, status: Mapping[str, Any], best: Mapping[str, Any]) -> str:
        if not best:
            return super()._text(status, {})
        measured = best["measured"]
        found = f"{measured['what']}: **{best['value']:.6g}**"
        if measured["defaults"] is not None:
            found += f" (defaults: {measured['defaults']:.6g})"
        rows = [f"- {name}: **{value}**" for name, value in best["hyperparameters"].items()]
        return "\n".join([found, "", *rows])
