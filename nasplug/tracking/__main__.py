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
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from nasplug.tracking import is_comparison, is_retraining, is_study

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
    """That of a search, of a study, a comparison or a retraining."""
    kinds = {"Study": is_study, "Comparison": is_comparison, "Retraining": is_retraining}
    return _loaded(next((kind for kind, holds in kinds.items() if holds(path)), ""))


@cache
def _loaded(kind: str) -> type[Sender]:
    """MLflow is imported by this process alone, and as a background task: after `nice`."""
    module = import_module(f"nasplug.tracking.{kind.lower() or 'sender'}")
    gc.collect()
    gc.freeze()  # MLflow's modules need not be walked again and again
    found: type[Sender] = getattr(module, f"{kind}Sender")
    return found


def _read(orders: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        orders.put(line)


if __name__ == "__main__":
    main()
