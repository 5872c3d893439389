"""The child process: follows the run directories that stdin names, until its parent is gone."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import sys
import threading
import time
from pathlib import Path

from nasplug.tracking import is_study
from nasplug.tracking.sender import Sender
from nasplug.tracking.study import StudySender

POLL = 0.1  # seconds between looks at a journal in which nothing was new
IDLE = 0.5  # the same, when nothing is followed

# A server that is away must cost seconds, not the minutes of MLflow's own retries.
SHORT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def main() -> None:
    """Serve until stdin has ended (or the parent has died) and everything has been sent."""
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        os.nice(10)
    for name, value in SHORT.items():
        os.environ.setdefault(name, value)
    answers, sys.stdout = sys.stdout, sys.stderr  # MLflow prints
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(lines,), daemon=True)
    reader.start()
    open_runs: list[Sender] = []
    frozen = False
    while True:
        alone = not reader.is_alive() or os.getppid() != parent
        while not lines.empty():
            order = json.loads(lines.get())
            if all(str(run.path) != order["run_dir"] for run in open_runs):
                open_runs.append(_sender(Path(order["run_dir"]), order["uri"]))
        progress = [run.advance(alone) for run in open_runs]
        for run in open_runs:
            if run.done:
                answer = {"run_dir": str(run.path), "error": run.error}
                print(json.dumps(answer), file=answers, flush=True)
        open_runs = [run for run in open_runs if not run.done]
        if alone and not open_runs:
            return
        if not any(progress):
            time.sleep(POLL if open_runs else IDLE)
        elif not frozen:
            gc.collect()
            gc.freeze()  # MLflow's modules need not be walked again and again
            frozen = True


def _sender(path: Path, uri: str) -> Sender:
    return StudySender(path, uri) if is_study(path) else Sender(path, uri)


def _read(lines: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)


if __name__ == "__main__":
    main()
