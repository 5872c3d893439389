"""Sender: one run directory -> one MLflow run, resumable at every step.

tracking.json notes what has been sent. Metric points carry the trial's number as their step and
its own time, so a point that is sent again after a crash is the same point, which MLflow keeps
once. Only the tracking process imports this module.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import math
import os
import platform
import re
import shlex
import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from csv import DictReader
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import SQLAlchemyError

from nasplug.errors import NasplugError, unknown
from nasplug.kernel.trial import State
from nasplug.run.directory import RunDirectory, read_json, write_json
from nasplug.run.journal import FILE, Journal, Row
from nasplug.run.report import VOLUMES
from nasplug.run.secrets import redacted, scrubbed
from nasplug.tracking import artifact_folder
from nasplug.tracking.locks import Presence

METRICS, PARAMS = 900, 100  # that MLflow takes in one batch
PARAM, TAG = 6000, 5000  # characters that it keeps
MEASURED = 100  # further metrics of a trial that are sent
LOOK = 1000  # trials read at a time
FIRST = 1.0  # seconds without a trial after which a search gets its MLflow run all the same
GRACE = 5.0  # seconds without success, after a search has ended, before giving it up
CONNECT = 5  # seconds for a database to answer
SLOWEST = 5.0  # seconds between attempts
REFUSED = range(400, 429)  # HTTP: the same request will never be answered otherwise

KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens it on its runs
ENDINGS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
NOTHING_SENT: dict[str, Any] = {  # tracking.json at first
    "experiment_id": None,
    "run_id": None,
    "trials": 0,  # in MLflow
    "sent": 0,  # in MLflow without a gap: the trials with numbers below this one
    "failed": 0,  # among those
    "best": None,  # the incumbent: [number, value, report, fidelity]
    "described": False,
    "offset": 0,  # of a study: in MLflow is searches.jsonl up to here
    "model": None,  # of a retraining: where its network is
    "ended": None,  # the status.json that MLflow has heard of
}

for _logger in ("mlflow", "alembic"):
    logging.getLogger(_logger).setLevel(logging.CRITICAL)


class Sender:
    """Call `advance` until `done`."""

    artifacts: tuple[str, ...] = (
        "selection.json", "trials.csv", "run.json", "subspace.npz", "space.json",
        "learned-space.json", "front.csv", VOLUMES, "*.png",
    )  # fmt: skip

    def __init__(self, path: Path, uri: str) -> None:
        self.path, self.uri = path, uri
        self.done = False
        self.error = ""
        self._alone = False
        self._run: dict[str, Any] = {}
        self._notes: dict[str, Any] = {}
        self._verified = False  # MLflow has the run that is noted
        self._unsure = True  # whether MLflow may have a run that was not noted
        self._directory = RunDirectory(path)
        self._journal: Journal | None = None
        self._lock = Presence(path / "tracking.lock")
        self._born = self._well = time.monotonic()  # the last moment without a failure
        self._ended = False  # the search was seen to have ended
        self._pause = self._next = 0.0  # after a failure

    def advance(self, alone: bool) -> bool:
        """Do the next piece of work, if there is any; False if there was nothing to do.

        alone: nobody who would know is left; a search without an end must have been killed.
        """
        self._alone = alone
        if self.done or time.monotonic() < self._next:
            return False
        try:
            progress = self._step()
        except Exception as error:
            self._unsure = True
            lost = getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"
            if lost and not self._verified and self._notes.get("run_id"):
                self._note(**NOTHING_SENT)  # the store is a new one: all is sent anew
                return True
            self._failed(error)
            return False
        finally:
            if self.done:
                if self._journal is not None:
                    self._journal.close()
                self._lock.release()
        self._well, self._pause = time.monotonic(), 0.0
        return progress

    # ---- the steps, in their order

    def _step(self) -> bool:
        if not self._notes and not self._open():
            return False
        status = self._status()
        running = status["state"] == "running"
        if not running and not self._ended:
            self._well = time.monotonic()
        self._ended = not running
        if self._notes["run_id"] is None:
            return self._begin(status)
        if not self._verified:
            found = self._client.get_run(self._notes["run_id"])
            if found.data.tags.get("nasplug.key") != self._notes["key"]:
                self._note(**NOTHING_SENT)  # somebody else's: what a directory says may be untrue
                self._unsure = True
                return True
            self._verified, self._unsure = True, False
        elif running and self._notes["ended"]:
            self._client.update_run(self._notes["run_id"], status="RUNNING")
            self._note(ended=None)
        elif not self._notes["described"]:
            self._log(params=self._params())
            self._note(described=True)
        elif self._send():
            pass
        elif running:
            self.done = self._alone
            return False
        else:
            if self._notes["ended"] != status:
                self._summarise(status)
            self._finish(status)
        return True

    def _open(self) -> bool:
        """Read the directory; from now on no other process sends it. False if one does now."""
        if not self._lock.acquire():
            if self._alone:  # the other process ends by itself, unless it follows a living search
                running = read_json(self.path / "status.json").get("state") == "running"
                self.done = running and self._in_use()
            return False
        self._run = self._record()
        noted, uri = read_json(self.path / "tracking.json"), redacted(self.uri)
        self._unsure = bool(noted)
        key = self._run.get("key") or noted.get("key") or uuid.uuid4().hex
        sent = noted if noted.get("uri") == uri else {}
        about = {"key": key, "uri": uri, "error": "", "gave_up": None}
        self._note(**{**NOTHING_SENT, **sent, **about})
        return True

    def _record(self) -> dict[str, Any]:
        return RunDirectory.open(self.path).run

    def _in_use(self) -> bool:
        """Whether some process searches it."""
        return self._directory.in_use()

    def _status(self) -> dict[str, Any]:
        """status.json; a search that died without a word is noted there as killed."""
        status = self._directory.status() or {"state": "running"}
        if status["state"] == "running" and self._alone and not self._in_use():
            self._directory.set_status("killed", "the process died")
            status = self._directory.status()
        return status

    def _begin(self, status: Mapping[str, Any]) -> bool:
        """Create the MLflow run, once there is something to say."""
        if not self._anything():
            if status["state"] == "failed":  # refused before it began
                self._finish(status)
                return True
            if status["state"] == "running" and time.monotonic() - self._born < FIRST:
                return False
        start = self._when(0.0)
        run_id = self._create(self._notes["key"], self._title(), start, self._tags())
        self._note(experiment_id=self._experiment(), run_id=run_id)
        self._verified, self._unsure = True, False
        return True

    def _title(self) -> str:
        return self.path.name

    def _anything(self) -> bool:
        """Whether the search has done anything."""
        return bool(self._rows(-1))

    def _create(self, key: str, name: str, start: int, tags: Mapping[str, str]) -> str:
        """A run with this key; if one was created without being noted, that one."""
        run_id = self._find(key) if self._unsure else None
        self._unsure = True  # until it is noted
        if run_id is None:
            tags = {**tags, "nasplug.key": key}
            run_id = self._client.create_run(self._experiment(), start, tags, name).info.run_id
        return str(run_id)

    def _find(self, key: str) -> str | None:
        """The run that was created with this key, if there is one."""
        found = self._client.search_runs([self._experiment()], f"tags.`nasplug.key` = '{key}'")
        return found[0].info.run_id if found else None

    def _send(self) -> bool:
        """Send the next trials; False if there are none."""
        first = self._notes["sent"]
        rows = [row for i, row in enumerate(self._rows(first - 1)) if row.number == first + i]
        best, failed = self._notes["best"], self._notes["failed"]
        sign = 1 if self._run["scores"]["maximize"] else -1
        metrics = []
        for row in rows:
            points = _points(row)
            if row.state == State.FAILED:
                failed += 1
                points["failed"] = failed
            elif (
                row.state == State.COMPLETE and row.feasible and row.value is not None
                and (best is None or (row.fidelity, sign * row.value) > (best[3], sign * best[1]))
            ):  # fmt: skip
                best = [row.number, row.value, row.report, row.fidelity]
                points |= _finite(best_value=row.value, best_report=row.report)
            metrics += self._metrics(points, row)
        if rows:
            self._log(metrics)
            sent = first + len(rows)
            trials = max(sent, self._notes["trials"])
            self._note(sent=sent, trials=trials, best=best, failed=failed, error="")
        return bool(rows)

    def _summarise(self, status: Mapping[str, Any]) -> None:
        """What the run came to, and its end."""
        self._send_rest()
        last = self._journal.last() if self._journal else None
        finished = status["state"] == "finished"
        selected = read_json(self.path / "selection.json").get("best", {}) if finished else {}
        if last:
            _, value, report, _ = self._notes["best"] or (None, None, None, None)
            points = _finite(
                best_value=value, best_report=report, trials=self._notes["trials"],
                seconds=last.elapsed, **self._winner() if finished else {},
            )  # fmt: skip
            self._log(self._metrics(points, last))
        self._log(self._volumes() if finished else [])
        self._end(status, self._text(status, selected), self._when(last.elapsed if last else 0.0))

    def _winner(self) -> dict[str, float | None]:
        """{"selected_value": ...}: what is known of the selected arch. An overview shows it beside
        the last trial's, which goes by trial/value."""
        ranked = read_json(self.path / "selection.json").get("ranked") or [{}]
        known = {"metrics": {}, **ranked[0]}
        plain = {name: known.get(name) for name in ("value", "report", "cost")}
        plain["fidelity"] = known.get("fidelity") or None
        return {f"selected_{_name(name)}": x for name, x in (known["metrics"] | plain).items()}

    def _volumes(self) -> list[Metric]:
        """How the hypervolume of several objectives grew, trial by trial; none of one objective."""
        try:
            with (self.path / VOLUMES).open(newline="") as file:
                grown = {int(row["trial"]): float(row["hypervolume"]) for row in DictReader(file)}
        except (OSError, ValueError, KeyError, TypeError):
            return []
        rows, metrics = self._rows(-1), []
        while rows:
            for row in rows:
                if row.number in grown:
                    metrics += self._metrics({"hypervolume": grown[row.number]}, row)
            rows = self._rows(rows[-1].number)
        return metrics

    def _send_rest(self) -> None:
        """Trials beyond a gap: scored out of order by a search that then died."""
        trials = self._notes["sent"]
        rows = self._rows(trials - 1)
        while rows:
            metrics = [metric for row in rows for metric in self._metrics(_points(row), row)]
            self._log(metrics)
            trials += len(rows)
            rows = self._rows(rows[-1].number)
        self._note(trials=trials)

    def _end(self, status: Mapping[str, Any], text: str, time: int) -> None:
        run_id = self._notes["run_id"]
        for file in (file for name in self.artifacts for file in sorted(self.path.glob(name))):
            if file.is_file() and not file.is_symlink():  # a link may lead to anything
                self._client.log_artifact(run_id, str(file))
        self._client.set_tag(run_id, "mlflow.note.content", _short(text, TAG))
        self._client.set_terminated(run_id, ENDINGS[status["state"]], end_time=time)

    def _finish(self, status: Mapping[str, Any]) -> None:
        self._note(ended=status)
        self.done = True

    # ---- what is sent

    def _metrics(self, points: Mapping[str, float], row: Row) -> list[Metric]:
        when = self._when(row.elapsed)
        return [Metric(name, x, when, row.number) for name, x in points.items()]

    def _log(
        self, metrics: Sequence[Metric] = (), params: Mapping[str, Any] | None = None,
        run_id: str = "",
    ) -> None:  # fmt: skip
        """In batches that MLflow takes."""
        rest = [Param(_name(k), _short(v, PARAM)) for k, v in (params or {}).items()]
        while metrics or rest:
            batch = {"metrics": metrics[:METRICS], "params": rest[:PARAMS]}
            self._client.log_batch(run_id or self._notes["run_id"], **batch)
            metrics, rest = metrics[METRICS:], rest[PARAMS:]

    def _params(self) -> dict[str, Any]:
        run = self._run
        params = {
            "method": run["method"], **run["scores"], **run["options"], "prune": run["prune"],
            "init": run["init"], "fidelity": run["fidelity"],
        }  # fmt: skip
        params = {k: v for k, v in params.items() if v not in (None, False, [])}
        params["direction"] = "maximize" if params.pop("maximize", False) else "minimize"
        for name, value in run["hyperparameters"].items():
            params[f"{run['method']}.{name}" if name in params else name] = value
        return {name: value for name, value in params.items() if value is not None}

    def _tags(self) -> dict[str, str]:
        environment = self._run["environment"]
        tags = {
            "nasplug.run_dir": str(self.path),
            "nasplug.host": platform.node(),
            "nasplug.command": shlex.join(environment["command"]),
            "nasplug.python": environment["python"],
            "nasplug.platform": environment["platform"],
            "mlflow.source.name": "".join(environment["command"][:1]),
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": environment["git_commit"],
            **{f"version.{name}": number for name, number in environment["versions"].items()},
        }
        with contextlib.suppress(KeyError, OSError):  # a user without a name
            tags["mlflow.user"] = getpass.getuser()
        return {_name(name): _short(text, TAG) for name, text in tags.items() if text}

    def _text(self, status: Mapping[str, Any], selected: Mapping[str, Any]) -> str:
        """The run's description, in Markdown."""
        if status["state"] != "finished":
            return f"{status['state']}:\n\n    {_line(status['error'])}"
        lines = [f"    {_line(selected.get('arch'))}", ""]  # code, in which nothing is markup
        for name, key in (("value", "reward"), ("report", "report")):
            if selected.get(name) is not None:
                lines.append(f"- {_plain(self._run['scores'][key])}: **{selected[name]:.6g}**")
        return "\n".join(lines)

    # ---- where it comes from, and where it goes

    def _rows(self, after: int) -> list[Row]:
        if self._journal is None:
            if not (self.path / FILE).exists():
                return []
            self._journal = Journal(self.path, read=True)
        return self._journal.read(after, LOOK)

    def _when(self, elapsed: float) -> int:
        """Milliseconds since 1970, as MLflow counts."""
        start = datetime.fromisoformat(self._run["environment"]["time"])
        return int(1000 * (start.timestamp() + elapsed))

    @property
    def _client(self) -> Any:
        return _connect(self.uri)

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self._experiment_name()
        return _experiment(self.uri, name)

    def _experiment_name(self) -> str:
        return str(self._run["scores"]["problem"])

    def _note(self, **changes: Any) -> None:
        self._notes.update(changes)
        write_json(self.path / "tracking.json", self._notes)

    def _failed(self, error: Exception) -> None:
        """Try again later; not for ever once the search has ended, not if it is hopeless."""
        if os.environ.get("NASPLUG_TRACEBACK"):
            traceback.print_exception(error)
        now = time.monotonic()
        self._pause = min(SLOWEST, max(0.25, 2 * self._pause))
        self._next = now + self._pause
        status = getattr(error, "get_http_status_code", lambda: None)()
        hopeless = isinstance(error, NasplugError) or status in REFUSED
        if hopeless or ((self._alone or self._ended) and now - self._well > GRACE):
            self.done = True
            self.error = self._words(error)
            if self._notes:
                self._note(error=self.error, gave_up=self._directory.status())
        elif self._notes:
            self._note(error=self._words(error))

    def _words(self, error: Exception) -> str:
        said = scrubbed(" ".join(str(error).split()), self.uri)
        return said[:500] or type(error).__name__


def folders_of(uri: str, name: str) -> list[str]:
    """The run directories that the runs of an experiment name, the oldest first."""
    try:
        client = _connect(uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            known = [one.name for one in client.search_experiments()]
            raise unknown("experiment", name, known, f"{name} is no run directory either")
        found, token = [], None
        while token != "":
            page = client.search_runs(
                [experiment.experiment_id], order_by=["attributes.start_time ASC"], page_token=token
            )
            found += [run.data.tags.get("nasplug.run_dir", "") for run in page]
            token = page.token or ""
    except (MlflowException, OSError, SQLAlchemyError) as error:
        said = scrubbed(" ".join(str(error).split()), uri)
        raise NasplugError(f"{redacted(uri)} cannot be read: {said[:500]}") from None
    return [folder for folder in dict.fromkeys(found) if folder]


@cache
def _connect(uri: str) -> Any:
    if folder := artifact_folder(uri):
        _create_store(Path(uri.removeprefix("sqlite:///")), folder)
    elif re.match(r"(sqlite|postgresql|mysql|mssql)[+:]", uri):
        # MLflow tries a database that is not there for minutes.
        limit = {} if uri.startswith(("sqlite", "mssql")) else {"connect_timeout": CONNECT}
        create_engine(uri, poolclass=NullPool, connect_args=limit).connect().close()
    return MlflowClient(uri)


@cache
def _experiment(uri: str, name: str) -> str:
    """The number of the experiment, created if need be."""
    client = _connect(uri)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        folder = artifact_folder(uri)
        location = (folder / re.sub(r"\W+", "-", name)).as_uri() if folder else None
        try:
            return str(client.create_experiment(name, location, KIND))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # by another process, just now
                raise
            experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage != "active":
        raise NasplugError(f"experiment {name} was deleted: restore it, or delete it for good")
    return str(experiment.experiment_id)


def _create_store(file: Path, artifacts: Path) -> None:
    """A local store appears whole: MLflow's migrations, if two processes run them at once or one
    dies in them, leave a database that nothing mends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            partial = file.with_suffix(".part")
            partial.unlink(missing_ok=True)
            store: Any = SqlAlchemyStore  # which has no type hints
            store(f"sqlite:///{partial}", artifacts.as_uri()).engine.dispose()
            partial.replace(file)


def _points(row: Row) -> dict[str, float]:
    if row.state == State.FAILED:
        return {}
    """What is known of a trial: ``trial/value`` ..."""
    measured = {_name(name): x for name, x in list(row.metrics.items())[:MEASURED]}
    fidelity = row.fidelity or None
    measured |= _finite(value=row.value, report=row.report, cost=row.cost, fidelity=fidelity)
    return {f"trial/{name}": x for name, x in _finite(**measured).items()}


def _finite(**points: float | None) -> dict[str, float]:
    return {name: x for name, x in points.items() if x is not None and math.isfinite(x)}


def _line(text: Any) -> str:
    """One line that any store takes, whatever is in it."""
    return " ".join(str(text).encode(errors="replace").decode().split())


def _plain(text: str) -> str:
    """Text in which Markdown sees nothing of its own; before others MLflow shows the backslash."""
    return re.sub(r"([\\`*{}\[\]()#|~])", r"\\\1", _line(text)).replace("<", "&lt;")


def _name(text: str) -> str:
    """Only characters that MLflow allows in a name."""
    return re.sub(r"[^/\w.\- :]", "_", text)[:250]


def _short(value: Any, limit: int) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.encode(errors="replace").decode()  # no store takes half of a character
    return text if len(text) <= limit else f"{text[: limit - 20]}… (see run.json)"
