"""Tracking: every search is an MLflow run, fed by a process that follows the journal.

The search never imports MLflow and never waits for it. `follow` hands its run directory to one
child process per Python process, which reads the journal and sends what is new. The journal is
the truth: what could not be sent is sent by `sync`, whatever died in between.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import threading
import time
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from nasplug.errors import NasplugError
from nasplug.hookspecs import hookimpl
from nasplug.run.directory import RunDirectory, read_json, runs_folder
from nasplug.run.secrets import redacted, scrubbed

AT_EXIT = 30.0  # seconds that a finished Python process waits for what is still being sent
STALLED = 4.0  # seconds without anything sent after which neither it nor a command waits longer
POLL = 0.05
RETRAINING = "retrain.json"
UI_PAGE = "/#/experiments?workflowType=machine_learning"  # else MLflow opens on its LLM pages

# A server that is away must cost seconds, not the minutes of MLflow's own retries.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

_lock = threading.Lock()
_child: subprocess.Popen[bytes] | None = None
_followed: dict[Path, str] = {}  # run directory -> the store that it is sent to


@hookimpl
def register_trackers(register: Any) -> None:
    register("mlflow", "nasplug.tracking:follow", "MLflow, from a process of its own")


def follow(run_dir: Path | str) -> None:
    """Send this run to MLflow while it grows, from another process. Returns at once."""
    global _child
    if not _installed():
        _say_off()
        return
    path = Path(run_dir).absolute()
    uri = store_uri(path)
    if (noted := _noted(path)) == redacted(uri) and _ended(path, "ended"):
        return  # all of it is there
    if noted not in ("", redacted(uri)):
        print(f"tracking: {path} was sent to {noted}, and is sent to {redacted(uri)} from now on",
              file=sys.stderr)  # fmt: skip
    with _lock:
        _followed[path] = uri
        orders = [path]
        if _child is None or _child.poll() is not None:
            _child = _spawn()
            orders = _incomplete()
        assert _child.stdin
        with contextlib.suppress(BrokenPipeError):
            _child.stdin.write(b"".join(_order(one, _followed[one]) for one in orders))
            _child.stdin.flush()


def wait(timeout: float | None = None, patience: float = math.inf) -> bool:
    """Wait until all searches followed so far have ended and are in MLflow.

    False if that is not so after `timeout` seconds, or sooner if it cannot become so: the server
    does not answer, or the child process has died. With `patience`, also once the store fails, or
    has taken nothing for so many seconds: the child goes on trying by itself for a while.
    """
    deadline = time.monotonic() + (math.inf if timeout is None else timeout)
    before: list[dict[str, Any]] = []
    moved = time.monotonic()
    while missing := _incomplete():
        gave_up = all(_ended(path, "gave_up") for path in missing)
        notes = [read_json(path / "tracking.json") for path in missing]
        if notes != before:
            before, moved = notes, time.monotonic()
        tired = time.monotonic() - moved > patience
        if patience < math.inf:  # without notes, the child is still importing MLflow
            gave_up = gave_up or all(note.get("error") or (note and tired) for note in notes)
        if gave_up or _child is None or _child.poll() is not None:
            return not _incomplete()
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL)
    return True


def sync(run_dir: Path | str, to: str | None = None) -> dict[str, Any]:
    """Send to MLflow what is missing there of a run, finished or not.

    to: the store, by default that of `store_uri`. A directory that was sent to another one is not
    sent there, nor anywhere else, unless the store is named: what a directory says of servers is
    somebody's word, and requests carry the user's credentials.

    Returns {run_dir, run_id, uri, trials, complete}; a run that some process still searches is
    sent as far as it has got, and not complete. NasplugError if it cannot be sent. A study
    directory is sent with all its searches; its trials are those.
    """
    path = Path(run_dir).absolute()
    if not (is_study(path) or is_comparison(path) or is_retraining(path)):
        RunDirectory.open(run_dir)
    if not _installed():
        raise NasplugError("MLflow is not installed: pip install nasplug[tracking]")
    uri = to or store_uri(path)
    named = to or os.environ.get("MLFLOW_TRACKING_URI")
    if not named and (noted := _noted(path)) not in ("", redacted(uri)):
        raise NasplugError(
            f"{path} was sent to {noted}: name the store with --to or MLFLOW_TRACKING_URI, such as "
            f"--to {redacted(uri)} for your own"
        )
    child = _spawn(stdout=subprocess.PIPE)
    try:
        answer, _ = child.communicate(_order(path, uri))
    except BaseException:
        child.terminate()
        raise
    errors = [json.loads(line)["error"] for line in answer.splitlines()]
    if errors != [""]:
        reason = (
            scrubbed(errors[-1], uri)
            if errors
            else "the sending process failed; try NASPLUG_TRACEBACK=1"
        )
        raise NasplugError(f"{path} could not be sent to {redacted(uri)}: {reason}")
    notes = read_json(path / "tracking.json")
    return {
        "run_dir": str(path),
        "run_id": notes.get("run_id"),
        "uri": notes.get("uri"),
        "trials": notes.get("trials", 0),
        "complete": _ended(path, "ended"),
    }


def run_id(run_dir: Path | str) -> str | None:
    """The MLflow run of a run directory; None if it has none (yet)."""
    return read_json(Path(run_dir) / "tracking.json").get("run_id")


def store_uri(run_dir: Path | str | None = None) -> str:
    """Where runs go: ``MLFLOW_TRACKING_URI``, else the local store of the runs folder, such as
    ``sqlite:////home/me/runs/mlflow.db``, or the one beside this run if it went there before."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    folders = [runs_folder(), *([Path(run_dir).absolute().parent] if run_dir else [])]
    stores = [f"sqlite:///{(folder / 'mlflow.db').as_posix()}" for folder in folders]
    return stores[-1] if run_dir and _noted(Path(run_dir)) == stores[-1] else stores[0]


def run_folders(experiment: str) -> list[Path]:
    """The run directories of an MLflow experiment's searches, the oldest first; NasplugError if the
    store has no experiment of that name."""
    uri = store_uri()
    local = artifact_folder(uri)
    if local and not Path(uri.removeprefix("sqlite:///")).exists():
        raise NasplugError(f"{experiment} is no directory, and {uri} no store of experiments")
    if not _installed():
        raise NasplugError("experiments are MLflow's: pip install nasplug[tracking]")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    sender = import_module("nasplug.tracking.sender")
    return [Path(folder) for folder in sender.folders_of(uri, experiment)]


def _noted(run_dir: Path) -> str:
    """The store to which a directory says that it was sent."""
    return str(read_json(run_dir / "tracking.json").get("uri", ""))


def ui_command() -> tuple[list[str], dict[str, str]]:
    """The command that shows the store in a browser, the MLflow UI, and what is to be added to its
    environment: the store, which may hold a password that others see in a command."""
    uri = store_uri()
    if uri.startswith(("http://", "https://")):
        raise NasplugError(f"MLFLOW_TRACKING_URI is a server, its UI is at {redacted(uri)}")
    if not _installed():
        raise NasplugError("the UI is MLflow's: pip install nasplug[tracking]")
    # Nothing is imported from the folder that one happens to stand in.
    command = [sys.executable, "-P", "-m", "mlflow", "ui"]
    if folder := artifact_folder(uri):
        folder.mkdir(parents=True, exist_ok=True)
        command += ["--default-artifact-root", folder.as_uri(), "--workers", "1"]
    return command, {"MLFLOW_BACKEND_STORE_URI": uri, "PYTHONSAFEPATH": "1"}


def artifact_folder(uri: str) -> Path | None:
    """Beside a local store; None where a server decides."""
    if not uri.startswith("sqlite:///") or "?" in uri:
        return None
    return Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts"


def is_study(path: Path) -> bool:
    """Whether it is the directory of a study (see nasplug.tuning), not of one search."""
    return (path / "study.json").exists()


def is_retraining(path: Path) -> bool:
    """Whether it is the folder of a retraining, in that of its search."""
    return (path / RETRAINING).exists()


def is_comparison(path: Path) -> bool:
    """Whether it is the directory of a comparison (see nasplug.comparison)."""
    return (path / "comparison.json").exists()


def read_lines(file: Path, offset: int = 0) -> list[tuple[dict[str, Any], int]]:
    """The whole JSON lines after `offset`, each with the offset after it; a line that a killed
    process left damaged is left out."""
    if not file.exists():
        return []
    with file.open("rb") as handle:
        handle.seek(offset)
        text = handle.read()
    found = []
    for line in text[: text.rfind(b"\n") + 1].splitlines(keepends=True):
        offset += len(line)
        with contextlib.suppress(ValueError):
            found.append((json.loads(line), offset))
    return found


def _installed() -> bool:
    return importlib.util.find_spec("mlflow") is not None


@cache
def _say_off() -> None:
    print("tracking is off: pip install nasplug[tracking]", file=sys.stderr)


def _incomplete() -> list[Path]:
    """The followed run directories that MLflow has not (yet) all of."""
    for path in list(_followed):
        if _ended(path, "ended"):
            del _followed[path]
    return list(_followed)


def _ended(path: Path, note: str) -> bool:
    """Whether the sender has noted "ended" or "gave_up" of a search that has ended like this."""
    status = read_json(path / "status.json")
    running = status.get("state", "running") == "running"
    return not running and read_json(path / "tracking.json").get(note) == status


def _spawn(stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """The child imports what this process would, wherever it was started; Ctrl-C spares it."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "nasplug.tracking"],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=None if os.environ.get("NASPLUG_TRACEBACK") else subprocess.DEVNULL,
        env={**ENVIRONMENT, **os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


def _order(path: Path, uri: str) -> bytes:
    return json.dumps({"run_dir": str(path), "uri": uri}).encode() + b"\n"


def _forget() -> None:
    """In a fork of this process: what was followed is its parent's business."""
    global _child
    _child = None
    _followed.clear()


@atexit.register
def _at_exit() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        wait(AT_EXIT, STALLED)
    if missing := _incomplete():
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        print(f"tracking incomplete: nasplug sync {missing[0]}{more}", file=sys.stderr)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
