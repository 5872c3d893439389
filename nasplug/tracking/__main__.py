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
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from nasplug.tracking import is_comparison, is_study

if TYPE_CHECKING:
    from nasplug.tracking.sender import Sender

POLL = 0.1  # seconds between looks at a journal in which nothing was new
IDLE = 0.5  # the same, when nothing is followed


def main() -> None:
    """Serve until stdin has ended (or the parent has died) and everything has been sent."""
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        os.nice(10)
    answers, sys.stdout = sys.stdout, sys.stderr  # MLflow prints
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(orders,), daemon=True)
    reader.start()
    senders: list[Sender] = []
    while True:
        alone = not reader.is_alive() or os.getppid() != parent
        while not orders.empty():
            order = json.loads(orders.get())
            path = Path(order["run_dir"])
            if all(sender.path != path for sender in senders):
                senders.append(_sender(path)(path, order["uri"]))
        progress = [sender.advance(alone) for sender in senders]
        for sender in senders:
            if sender.done:
                answer = {"run_dir": str(sender.path), "error": sender.error}
                print(json.dumps(answer), file=answers, flush=True)
        senders = [sender for sender in senders if not sender.done]
        if alone and not senders:
            return
        if not any(progress):
            time.sleep(POLL if senders else IDLE)


def _sender(path: Path) -> type[Sender]:
    search, study, comparison = _senders()
    if is_comparison(path):
        return comparison
    return study if is_study(path) else search


@cache
def _senders() -> tuple[type[Sender], ...]:
    """Those of a search, a study and a comparison. MLflow is imported by this process alone, and as
    a background task: after `nice`."""
    from nasplug.tracking.comparison import ComparisonSender
    from nasplug.tracking.sender import Sender
    from nasplug.tracking.study import StudySender

    gc.collect()
    gc.freeze()  # MLflow's modules need not be walked again and again
    return Sender, StudySender, ComparisonSender


def _read(orders: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        orders.put(line)


if __name__ == "__main__":
    main()
