"""Sender: one run directory -> one MLflow run, resumable at every step.

tracking.json notes what has been sent. Metric points carry the trial's number as their step and
its own time, so a point that is sent again after a crash is the same point, which MLflow keeps
once. Only the tracking process imports this module.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import platform
import re
import shlex
import sqlite3
import time
import uuid
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from nasplug.errors import NasplugError
from nasplug.journal import RunDirectory, write_json
from nasplug.tracking import artifact_folder, read_json, redacted
from nasplug.trial import State

METRICS = 1000  # that MLflow takes in one batch
PARAM, TAG = 6000, 5000  # characters that MLflow keeps
PARAMS = 100  # in one batch
MEASURED = 100  # further metrics of a trial that are sent
LOOK = 1000  # trials read at a time
FIRST = 1.0  # seconds without a trial after which a search gets its MLflow run all the same
GRACE = 5.0  # seconds without success, after a search has ended, before giving it up
SLOWEST = 5.0  # seconds between attempts

HOPELESS = {
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "RESOURCE_DOES_NOT_EXIST",
    "UNAUTHENTICATED",
}
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens it on its runs
ENDINGS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
ARTIFACTS = (
    "selection.json", "trials.csv", "run.json", "subspace.npz", "space.json", "learned-space.json",
    "*.png",
)  # fmt: skip

SELECT = (
    "SELECT number, value, report, cost, state, feasible, metrics, elapsed FROM trials "
    "WHERE number >= ? ORDER BY number LIMIT ?"
)
Row = tuple[int, float | None, float | None, float | None, int, int, str | None, float]


class Sender:
    """Call `advance` until `done`."""

    def __init__(self, path: Path, uri: str) -> None:
        self.path, self.uri = path, uri
        self.done = False
        self.error = ""
        self._run: dict[str, Any] = {}
        self._notes: dict[str, Any] = {}
        self._fresh = False  # nobody can have created the MLflow run before
        self._known = False  # MLflow has our run
        self._journal: sqlite3.Connection | None = None
        self._lock: Any = None
        self._born = time.monotonic()
        self._ended = 0.0  # when the search was seen to have ended
        self._failing = 0.0  # when sending began to fail
        self._pause = self._next = 0.0  # after a failure

    def advance(self, alone: bool) -> bool:
        """Do the next piece of work, if there is any; False if there was nothing to do.

        alone: nobody who would know is left; a search without an end must have been killed.
        """
        if self.done or time.monotonic() < self._next:
            return False
        try:
            progress = self._step(alone)
        except Exception as error:
            self._failed(error, alone)
            return False
        finally:
            if self.done:
                self._close()
        if progress:
            self._failing = self._pause = 0.0
        return progress

    # ---- the steps, in their order

    def _step(self, alone: bool) -> bool:
        if self._lock is None and not self._open(alone):
            return False
        status = self._status(alone)
        running = status["state"] == "running"
        self._ended = 0.0 if running else self._ended or time.monotonic()
        rows = self._rows(self._notes["sent"])
        if self._notes["run_id"] is None:
            if not rows and status["state"] == "failed":  # refused before it began
                return self._finish(status)
            if not rows and running and time.monotonic() - self._born < FIRST:
                return False
            self._create()
            return True
        if not self._known:
            self._find()
            return True
        if running and self._notes["ended"]:
            self._client.update_run(self._notes["run_id"], status="RUNNING")
            self._note(ended=None)
        if not self._notes["described"]:
            self._describe()
            return True
        if ready := [row for i, row in enumerate(rows) if row[0] == self._notes["sent"] + i]:
            self._send(ready)
            return True
        if running:
            self.done = alone
            return False
        if self._notes["ended"] != status:
            self._send_rest(rows)
            self._summarise(status)
        return self._finish(status)

    def _open(self, alone: bool) -> bool:
        """Read the directory; from now on no other process sends it. False if one does now."""
        self._lock = _locked(self.path / "tracking.lock")
        if self._lock is None:
            if alone:  # the other process ends by itself, unless it follows a living search
                status = read_json(self.path / "status.json")
                self.done = status.get("state") == "running" and _lives(status)
            return False
        self._run = self._record()
        noted = read_json(self.path / "tracking.json")
        uri = redacted(self.uri)
        self._fresh = not noted
        self._notes = _unsent(noted.get("key") or self._run.get("key") or uuid.uuid4().hex, uri)
        if noted.get("uri") == uri:
            self._notes |= noted
        self._note(error="", gave_up=None)
        return True

    def _record(self) -> dict[str, Any]:
        return RunDirectory.open(self.path)[1]

    def _status(self, alone: bool) -> dict[str, Any]:
        """status.json; a search that died without a word is noted there as killed."""
        status = read_json(self.path / "status.json") or {"state": "running"}
        if status["state"] == "running" and alone and not _lives(status):
            RunDirectory(self.path).set_status("killed", "the process died")
            status = read_json(self.path / "status.json")
        return status

    @property
    def _client(self) -> Any:
        return _connected(self.uri)

    def _find(self) -> None:
        """The run that was noted; one that the store has lost is sent anew."""
        from mlflow.exceptions import MlflowException

        run_id = self._notes["run_id"]
        try:
            stage = self._client.get_run(run_id).info.lifecycle_stage
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._note(**_unsent(self._notes["key"], self._notes["uri"]))
            return
        if stage != "active":
            raise NasplugError(
                f"MLflow run {run_id} was deleted: restore it, or remove "
                f"{self.path / 'tracking.json'} to send it as a new one"
            )
        self._known = True

    def _create(self) -> None:
        """The MLflow run; if one was created without being noted, that one."""
        number = self._experiment()
        fresh, self._fresh = self._fresh, False  # a lost answer may be that of a creation
        run_id = None if fresh else self._find_key(self._notes["key"])
        if run_id is None:
            created = self._client.create_run(
                number, start_time=self._start, tags=self._tags(), run_name=self.path.name
            )
            run_id = created.info.run_id
            self._known = True
        self._note(experiment_id=number, run_id=run_id)

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self._run["scores"]["problem"]
        return _experiment(self.uri, name)

    def _find_key(self, key: str) -> str | None:
        """The run that was created with this key, if there is one."""
        found = self._client.search_runs([self._experiment()], f"tags.`nasplug.key` = '{key}'")
        return found[0].info.run_id if found else None

    def _describe(self) -> None:
        from mlflow.entities import Param

        params = [Param(_key(k), _short(v, PARAM)) for k, v in self._params().items()]
        for i in range(0, len(params), PARAMS):
            self._client.log_batch(self._notes["run_id"], params=params[i : i + PARAMS])
        self._note(described=True)

    def _send(self, rows: list[Row]) -> None:
        """The next trials: as many as fit into one batch."""
        from mlflow.entities import Metric

        batch: list[Any] = []
        best, failed, count = self._notes["best"], self._notes["failed"], 0
        for row in rows:
            number, value, report, _, state, feasible, _, elapsed = row
            points = self._points(row)
            if state == State.FAILED:
                failed += 1
                points["failed"] = failed
            if state == State.COMPLETE and feasible and value is not None:
                sign = 1 if self._run["scores"]["maximize"] else -1
                if best is None or sign * value > sign * best[1]:
                    best = [number, value, report]
                    points |= _named(best_value=value, best_report=report)
            if len(batch) + len(points) > METRICS:
                break
            when = self._when(elapsed)
            batch += [Metric(name, x, when, number) for name, x in points.items()]
            accepted, count = (best, failed), count + 1
        self._client.log_batch(self._notes["run_id"], metrics=batch)
        best, failed = accepted
        sent = self._notes["sent"] + count
        self._note(sent=sent, trials=max(sent, self._notes["trials"]), best=best, failed=failed)

    def _send_rest(self, rows: list[Row]) -> None:
        """Trials beyond a gap: scored out of order by a search that then died."""
        from mlflow.entities import Metric

        count = 0
        while rows:
            points = [
                Metric(name, x, self._when(row[-1]), row[0])
                for row in rows
                for name, x in self._points(row).items()
            ]
            for i in range(0, len(points), METRICS):
                self._client.log_batch(self._notes["run_id"], metrics=points[i : i + METRICS])
            count += len(rows)
            rows = self._rows(rows[-1][0] + 1)
        self._note(trials=self._notes["sent"] + count)

    def _summarise(self, status: dict[str, Any]) -> None:
        """What the run came to, its artifacts, its end."""
        from mlflow.entities import Metric

        run_id = self._notes["run_id"]
        last = self._last()
        selection = read_json(self.path / "selection.json") if status["state"] == "finished" else {}
        chosen = selection.get("best", {})
        if last:
            _, value, report = self._notes["best"] or (None, None, None)
            points = _named(
                best_value=value,
                best_report=report,
                selected_value=chosen.get("value"),
                selected_report=chosen.get("report"),
                trials=self._notes["trials"],
                seconds=last[-1],
            )
            batch = [Metric(k, x, self._when(last[-1]), last[0]) for k, x in points.items()]
            self._client.log_batch(run_id, metrics=batch)
        for file in (file for name in ARTIFACTS for file in sorted(self.path.glob(name))):
            self._client.log_artifact(run_id, str(file))
        self._client.set_tag(run_id, "mlflow.note.content", self._text(status, chosen))
        end = self._when(last[-1] if last else 0.0)
        self._client.set_terminated(run_id, ENDINGS[status["state"]], end_time=end)

    def _finish(self, status: dict[str, Any]) -> bool:
        self._note(ended=status)
        self.done = True
        return True

    # ---- what is sent

    def _points(self, row: Row) -> dict[str, float]:
        _, value, report, cost, state, _, metrics, _ = row
        if state == State.FAILED:
            return {}
        more = list(json.loads(metrics).items()) if metrics else []
        measured = {_key(name): x for name, x in more[:MEASURED]}
        return _named(**measured | {"value": value, "report": report, "cost": cost})

    def _params(self) -> dict[str, Any]:
        run = self._run
        params = {"method": run["method"], **run["scores"], **run["options"], "prune": run["prune"]}
        params = {k: v for k, v in params.items() if v not in (None, False, [])}
        params["direction"] = "maximize" if params.pop("maximize", False) else "minimize"
        for name, value in run["hyperparameters"].items():
            params[f"{run['method']}.{name}" if name in params else name] = value
        return {name: value for name, value in params.items() if value is not None}

    def _tags(self) -> dict[str, str]:
        environment = self._run["environment"]
        command = shlex.join(environment["command"])
        tags = {
            "nasplug.key": self._notes["key"],
            "nasplug.run_dir": str(self.path),
            "nasplug.host": platform.node(),
            "nasplug.command": command,
            "nasplug.python": environment["python"],
            "nasplug.platform": environment["platform"],
            "mlflow.source.name": "".join(environment["command"][:1]),
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": environment["git_commit"] or "",
            "mlflow.user": _user(),
        }
        for name, number in environment["versions"].items():
            tags[f"version.{name}"] = number
        return {_key(name): _short(text, TAG) for name, text in tags.items() if text}

    def _text(self, status: dict[str, Any], chosen: dict[str, Any]) -> str:
        """The run's description, in Markdown."""
        if status["state"] != "finished":
            return _short(f"**{status['state']}**: {status['error']}", TAG)
        scores = self._run["scores"]
        lines = [f"`{chosen.get('arch')}`", ""]
        for name, key in (("value", "reward"), ("report", "report")):
            if chosen.get(name) is not None:
                lines.append(f"- {scores.get(key) or name}: **{chosen[name]:.6g}**")
        return _short("\n".join(lines), TAG)

    # ---- the run directory

    def _rows(self, first: int) -> list[Row]:
        journal = self._connection()
        return journal.execute(SELECT, (first, LOOK)).fetchall() if journal else []

    def _last(self) -> Row | None:
        journal = self._connection()
        query = SELECT.replace("number LIMIT", "number DESC LIMIT")
        return journal.execute(query, (0, 1)).fetchone() if journal else None

    def _connection(self) -> sqlite3.Connection | None:
        """The journal, only read here; None until the search has made it."""
        if self._journal is None and (self.path / "journal.sqlite").exists():
            uri = f"{(self.path / 'journal.sqlite').as_uri()}?mode=rw"
            journal = sqlite3.connect(uri, uri=True, timeout=10, isolation_level=None)
            if not journal.execute("SELECT 1 FROM sqlite_master WHERE name = 'trials'").fetchone():
                journal.close()
                return None
            self._journal = journal
        return self._journal

    @property
    def _start(self) -> int:
        return int(1000 * datetime.fromisoformat(self._run["environment"]["time"]).timestamp())

    def _when(self, elapsed: float) -> int:
        return self._start + int(1000 * elapsed)

    def _note(self, **changes: Any) -> None:
        self._notes.update(changes)
        write_json(self.path / "tracking.json", self._notes)

    def _failed(self, error: Exception, alone: bool) -> None:
        """Try again later; not for ever once the search has ended, not if it is hopeless."""
        if os.environ.get("NASPLUG_TRACEBACK"):
            import traceback

            traceback.print_exception(error)
        now = time.monotonic()
        self._failing = self._failing or now
        self._pause = min(SLOWEST, max(0.25, 2 * self._pause))
        self._next = now + self._pause
        hopeless = getattr(error, "error_code", None) in HOPELESS or isinstance(
            error, NasplugError | ImportError
        )
        since = max(self._failing, self._ended)
        if hopeless or ((alone or self._ended) and now - since > GRACE):
            self.done = True
            self.error = " ".join(str(error).split())[:500] or type(error).__name__
            if self._lock is not None and self._notes:
                self._note(error=self.error, gave_up=read_json(self.path / "status.json"))

    def _close(self) -> None:
        if self._journal is not None:
            self._journal.close()
        if self._lock is not None:
            self._lock.close()


def _unsent(key: str, uri: str) -> dict[str, Any]:
    """tracking.json of a run of which nothing has been sent."""
    return {
        "key": key,
        "uri": uri,
        "experiment_id": None,
        "run_id": None,
        "trials": 0,  # in MLflow
        "sent": 0,  # in MLflow without a gap: the trials with numbers below this one
        "failed": 0,  # among those
        "best": None,  # the incumbent: [number, value, report]
        "described": False,
        "ended": None,  # the status.json that MLflow has heard of
    }


@cache
def _connected(uri: str) -> Any:
    """MLflow's client, imported when there is something to send."""
    import logging

    import mlflow.tracking

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if folder := artifact_folder(uri):
        _create_store(Path(uri.removeprefix("sqlite:///")), folder)
    return mlflow.tracking.MlflowClient(uri)


@cache
def _experiment(uri: str, name: str) -> str:
    """The number of the experiment, created if need be."""
    from mlflow.exceptions import MlflowException

    client = _connected(uri)
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
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file.parent.mkdir(parents=True, exist_ok=True)
    while not file.exists():
        lock = _locked(file.with_suffix(".lock"))
        if lock is None:
            time.sleep(0.1)
            continue
        with lock:
            part = file.with_suffix(".part")
            part.unlink(missing_ok=True)
            if not file.exists():
                store: Any = SqlAlchemyStore
                store(f"sqlite:///{part}", artifacts.as_uri()).engine.dispose()
                part.replace(file)


def _locked(file: Path) -> Any:
    """The open file, whose lock is held until it is closed; None if another process has it."""
    handle = file.open("a")
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows: nothing watches over two processes that send the same run
        pass
    except OSError:
        handle.close()
        return None
    return handle


def _lives(status: dict[str, Any]) -> bool:
    """Whether the process that wrote the status still runs (on this machine, as far as we see)."""
    if status.get("host") != platform.node() or not isinstance(status.get("pid"), int):
        return False
    try:
        os.kill(status["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:  # dead, but its parent has not looked yet
        fields = Path(f"/proc/{status['pid']}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return True
    return fields[0] != "Z"


def _named(**points: float | None) -> dict[str, float]:
    return {name: x for name, x in points.items() if x is not None and math.isfinite(x)}


def _key(name: str) -> str:
    """Only characters that MLflow allows in a name."""
    return re.sub(r"[^/\w.\- :]", "_", name)[:250]


def _short(value: Any, limit: int) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= limit else f"{text[: limit - 20]}… (see run.json)"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
