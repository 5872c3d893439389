"""StudySender: a study directory -> a parent run, and a child run per search.

A search is three calls to MLflow, however many trials it had: of its curve, the moments are sent
at which the best changed. Only the tracking process imports this module.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from nasplug.tracking import read_json, read_lines
from nasplug.tracking.sender import (
    ENDINGS,
    METRICS,
    PARAM,
    TAG,
    Sender,
    _key,
    _named,
    _short,
)  # fmt: skip

JOINING = 30.0  # seconds to wait for the parent run of a study that was begun elsewhere
BATCH = 20  # lines of searches.jsonl sent before looking at anything else
ARTIFACTS = (
    "best.json", "pareto.json", "trials.csv", "study.json", "plots.html", "history.png",
    "importance.png", "parallel.png", "slice.png", "pareto.png",
)  # fmt: skip


class StudySender(Sender):
    """Call `advance` until `done`. tracking.json notes how much of searches.jsonl was sent."""

    def __init__(self, path: Path, uri: str) -> None:
        super().__init__(path, uri)
        self._unsure = True  # whether a run may have been created without being noted

    def _step(self, alone: bool) -> bool:
        if self._lock is None:
            if not self._open(alone):
                return False
            self._unsure = not self._fresh
        status = self._status(alone)
        running = status["state"] == "running"
        self._ended = 0.0 if running else self._ended or time.monotonic()
        if self._notes["run_id"] is None:
            return self._join()
        if not self._known:
            self._find()
            return True
        if running and self._notes["ended"]:
            self._client.update_run(self._notes["run_id"], status="RUNNING")
            self._note(ended=None)
        if not self._notes["described"]:
            self._describe()
            return True
        if lines := read_lines(self.path / "searches.jsonl", self._notes.get("offset", 0)):
            for record, offset in lines[:BATCH]:
                self._send_line(record, offset)
            return True
        if running:
            self.done = alone
            return False
        if self._notes["ended"] != status:
            self._summarise(status)
        return self._finish(status)

    def _record(self) -> dict[str, Any]:
        return read_json(self.path / "study.json")

    def _join(self) -> bool:
        """The parent run; all machines that work on the study have the same."""
        if self._run["joined"] and time.monotonic() - self._born < JOINING:
            run_id = self._find_key(self._notes["key"])
            if run_id is None:
                self._next = time.monotonic() + 1.0
                return False
            self._note(experiment_id=self._experiment(), run_id=run_id)
            return True
        self._create()
        return True

    # ---- what is sent

    def _send_line(self, record: dict[str, Any], offset: int) -> None:
        if "ended" in record:
            self._send_trial(record, offset)
            return
        unsure, self._unsure = self._unsure, True
        self._send_search(record, unsure)
        self._note(offset=offset, trials=self._notes["trials"] + 1)
        self._unsure = False

    def _send_search(self, record: dict[str, Any], unsure: bool) -> None:
        """A child run, whole."""
        from mlflow.entities import Metric, Param

        start = int(1000 * record["start"])
        seconds = record.get("seconds", 0.0)
        name = f"trial-{record['trial']}-seed-{record['seed']}"
        tags = {
            "mlflow.parentRunId": self._notes["run_id"],
            "nasplug.key": record["key"],
            "mlflow.note.content": _short(record.get("error") or f"`{record['arch']}`", TAG),
        }
        run_id = self._find_key(record["key"]) if unsure else None
        if run_id is None:
            number = self._notes["experiment_id"]
            run_id = self._client.create_run(number, start, tags, name).info.run_id
        about = {
            "method": self._run["method"], "problem": self._run["problem"],
            "budget": self._run["budget"], "trial": record["trial"], "seed": record["seed"],
            **record["hyperparameters"],
        }  # fmt: skip
        last = record.get("trials", 1) - 1
        metrics = [
            Metric(key, x, start + int(1000 * seconds * (step + 1) / (last + 1)), step)
            for step, value, report in record.get("curve", [])[-METRICS // 4 :]
            for key, x in _named(best_value=value, best_report=report).items()
        ]
        if not record.get("error"):
            final = _named(
                best_value=record["curve"][-1][1], best_report=record["curve"][-1][2],
                selected_value=record["value"], selected_report=record["report"],
                cost=record["cost"], seconds=seconds, trials=record["trials"],
            )  # fmt: skip
            end = start + int(1000 * seconds)
            metrics += [Metric(key, x, end, last) for key, x in final.items()]
        params = [Param(_key(key), _short(value, PARAM)) for key, value in about.items()]
        self._client.log_batch(run_id, metrics=metrics, params=params)
        ending = "FAILED" if record.get("error") else "FINISHED"
        self._client.set_terminated(run_id, ending, start + int(1000 * seconds))

    def _send_trial(self, record: dict[str, Any], offset: int) -> None:
        """A trial of the study, as a step of the parent's metrics."""
        from mlflow.entities import Metric

        names = self._run["objectives"]
        seeds = record["objectives"]
        means = [sum(column) / len(seeds) for column in zip(*seeds, strict=True)]
        points = dict(zip(names, means, strict=True)) | _named(report=record["report"])
        points["seeds"] = len(seeds)
        best = self._notes["best"]
        if record["state"] == "complete":
            maximize = names[0] in ("value", "report") and self._run["scores"]["maximize"]
            sign = 1 if maximize else -1
            if best is None or sign * means[0] > sign * best[1]:
                best = [record["ended"], means[0], record["report"]]
                points |= _named(**{f"best_{names[0]}": means[0], "best_report": best[2]})
        when = int(1000 * record["time"])
        batch = [Metric(_key(name), x, when, record["ended"]) for name, x in points.items()]
        self._client.log_batch(self._notes["run_id"], metrics=batch)
        self._note(offset=offset, best=best)

    def _params(self) -> dict[str, Any]:
        run = self._run
        names = ("method", "problem", "evaluator", "reward", "budget", "seed")
        lists = {name: ",".join(map(str, run[name])) for name in ("tuned", "objectives", "seeds")}
        return {**{name: run[name] for name in names}, **run["fixed"], **lists}

    def _summarise(self, status: dict[str, Any]) -> None:
        run_id = self._notes["run_id"]
        for name in ARTIFACTS:
            if (self.path / name).exists():
                self._client.log_artifact(run_id, str(self.path / name))
        best = read_json(self.path / "best.json") if status["state"] == "finished" else {}
        self._client.set_tag(run_id, "mlflow.note.content", self._text(status, best))
        end = int(1000 * status["time"])
        self._client.set_terminated(run_id, ENDINGS[status["state"]], end_time=end)

    def _text(self, status: dict[str, Any], best: dict[str, Any]) -> str:
        """The run's description, in Markdown."""
        if not best:
            return super()._text(status, {})
        rows = [f"- {name}: **{value}**" for name, value in best["hyperparameters"].items()]
        measured = best["measured"]
        found = f"{measured['what']}: **{best['value']:.6g}**"
        if measured["defaults"] is not None:
            found += f" (defaults: {measured['defaults']:.6g})"
        return _short("\n".join([found, "", *rows]), TAG)
