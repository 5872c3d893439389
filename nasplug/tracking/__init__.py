"""Tracking: every search is an MLflow run, fed by a process that follows the journal.

The search never imports MLflow and never waits for it. `follow` hands its run directory to one
child process per Python process, which tails journal.sqlite and sends what is new. The journal
is the truth: what could not be sent is sent by `sync`, whatever died in between.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from nasplug.errors import NasplugError
from nasplug.journal import RunDirectory

AT_EXIT = 30.0  # seconds that a finished Python process waits for what is still being sent
POLL = 0.05
UI_PAGE = "/#/experiments?workflowType=machine_learning"  # else MLflow opens on its LLM pages

_lock = threading.Lock()
_child: subprocess.Popen[bytes] | None = None
_followed: dict[Path, str] = {}  # run directory -> where it is sent to
_owner = 0  # the process that follows; a fork of it does not
_said_missing = False


def follow(run_dir: Path | str) -> None:
    """Send this run to MLflow while it grows, from another process. Returns at once."""
    global _said_missing
    if importlib.util.find_spec("mlflow") is None:
        if not _said_missing:
            print("tracking is off: pip install nasplug[tracking]", file=sys.stderr)
        _said_missing = True
        return
    path = Path(run_dir).absolute()
    with _lock:
        _adopt()
        _followed[path] = store_uri(path)
        if _child is None or _child.poll() is not None:
            _start()  # and hand over whatever is unfinished
        else:
            _hand_over(_child, path)


def wait(timeout: float | None = None) -> bool:
    """Wait until all searches followed so far have ended and are in MLflow.

    False if that is not so after `timeout` seconds, or sooner if it cannot become so: the server
    does not answer, or the child process has died.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        open_runs = pending()
        if not open_runs:
            return True
        if _child is None or _child.poll() is not None or all(map(_given_up, open_runs)):
            return not pending()
        if deadline is not None and time.monotonic() >= deadline:
            return False
        time.sleep(POLL)


def pending() -> list[Path]:
    """The followed run directories that are not (yet) complete in MLflow."""
    if os.getpid() != _owner:
        return []
    for path in list(_followed):
        if _complete(path):
            del _followed[path]
    return list(_followed)


def sync(run_dir: Path | str) -> dict[str, Any]:
    """Send to MLflow what is missing there of a run, finished or not.

    Returns {run_dir, run_id, uri, trials, complete}; a run that some process still
    searches is sent as far as it has got, and not complete. NasplugError if it cannot be sent.
    A study directory is sent with all its searches; its trials are those.
    """
    path = Path(run_dir).absolute()
    if not is_study(path):
        RunDirectory.open(run_dir)
    if importlib.util.find_spec("mlflow") is None:
        raise NasplugError("MLflow is not installed: pip install nasplug[tracking]")
    uri = store_uri(path)
    child = _spawn(stdout=subprocess.PIPE)
    try:
        answer, _ = child.communicate(_order(path, uri))
    except BaseException:
        child.terminate()
        raise
    errors = [json.loads(line)["error"] for line in answer.splitlines()]
    if not errors or errors[-1]:
        reason = errors[-1] if errors else "the sending process failed; try NASPLUG_TRACEBACK=1"
        raise NasplugError(f"{path} could not be sent to {redacted(uri)}: {reason}")
    notes = read_json(path / "tracking.json")
    return {
        "run_dir": str(path),
        "run_id": notes.get("run_id"),
        "uri": notes.get("uri"),
        "trials": notes.get("trials", 0),
        "complete": _complete(path),
    }


def run_id(run_dir: Path | str) -> str | None:
    """The MLflow run of a run directory; None if it has none (yet)."""
    return read_json(Path(run_dir) / "tracking.json").get("run_id")


def store_uri(run_dir: Path | str | None = None) -> str:
    """Where runs go: ``MLFLOW_TRACKING_URI``, else where this one went before, else the local
    store beside the run directories."""
    from nasplug.api import runs_folder

    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    if run_dir and (uri := read_json(Path(run_dir) / "tracking.json").get("uri")):
        return str(uri)
    return f"sqlite:///{(runs_folder() / 'mlflow.db').as_posix()}"


def ui_command() -> list[str]:
    """The command that shows the store in a browser: the MLflow UI."""
    uri = store_uri()
    if uri.startswith(("http://", "https://")):
        raise NasplugError(f"MLFLOW_TRACKING_URI is a server, its UI is at {redacted(uri)}")
    if importlib.util.find_spec("mlflow") is None:
        raise NasplugError("the UI is MLflow's: pip install nasplug[tracking]")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    if folder := artifact_folder(uri):
        folder.mkdir(parents=True, exist_ok=True)
        command += ["--default-artifact-root", folder.as_uri(), "--workers", "1"]
    return command


def artifact_folder(uri: str) -> Path | None:
    """Beside a local store; None where a server decides."""
    if not uri.startswith("sqlite:///") or "?" in uri:
        return None
    return Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts"


def redacted(uri: str) -> str:
    """Without user and password."""
    scheme, slashes, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


def read_json(file: Path) -> dict[str, Any]:
    """{} if it is not there or not whole."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_study(path: Path) -> bool:
    """Whether it is the directory of a study (see nasplug.tuning), not of one search."""
    return (path / "study.json").exists()


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


def _complete(path: Path) -> bool:
    """Whether MLflow has all of a run whose search has ended."""
    status, notes = read_json(path / "status.json"), read_json(path / "tracking.json")
    if status.get("state", "running") == "running":
        return False
    if notes.get("ended") == status:
        return True
    # A search refused before its first trial leaves nothing to send; do not wait for MLflow's
    # import to find that out.
    return not notes.get("run_id") and status["state"] == "failed" and not _has_trials(path)


def _given_up(path: Path) -> bool:
    status, notes = read_json(path / "status.json"), read_json(path / "tracking.json")
    return bool(notes.get("error")) and notes.get("gave_up") == status


def _has_trials(path: Path) -> bool:
    if is_study(path):
        return (path / "searches.jsonl").exists()
    directory = RunDirectory(path)
    try:
        return any(True for _ in directory.rows(limit=1))
    except NasplugError:
        return False
    finally:
        directory.close()


def _adopt() -> None:
    """This process follows; what a fork inherited is its parent's business."""
    global _owner, _child
    if _owner != os.getpid():
        _owner, _child = os.getpid(), None
        _followed.clear()
        atexit.register(_at_exit)


def _start() -> None:
    global _child
    _child = _spawn()
    for path in pending():
        _hand_over(_child, path)


def _spawn(stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """The child imports what this process would, wherever it was started; Ctrl-C spares it."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "nasplug.tracking"],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=None if os.environ.get("NASPLUG_TRACEBACK") else subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


def _hand_over(child: subprocess.Popen[bytes], path: Path) -> None:
    assert child.stdin
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(_order(path, _followed[path]))
        child.stdin.flush()


def _order(path: Path, uri: str) -> bytes:
    return json.dumps({"run_dir": str(path), "uri": uri}).encode() + b"\n"


def _at_exit() -> None:
    if os.getpid() != _owner:
        return
    with contextlib.suppress(KeyboardInterrupt):
        if wait(AT_EXIT):
            return
    if missing := pending():
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        print(f"tracking incomplete: nasplug sync {missing[0]}{more}", file=sys.stderr)
