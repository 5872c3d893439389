"""An executor on Ray: each call is a task of one CPU, and of one GPU where the cluster has any."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import ray

from nasplug import NasplugError

PATIENCE = 10  # seconds for a cluster to answer


class RayExecutor(Executor):
    """Calls as Ray tasks.

    address: of a cluster ("auto", "ray://head:10001"); "" is the one that this process is connected
    to, or else a new one of this machine, which ends with the executor. `max_workers` is how many
    tasks the cluster runs at a time. A task whose worker dies is not repeated by Ray: nasplug does.
    """

    def __init__(self, address: str = "") -> None:
        self._mine = not ray.is_initialized()
        if self._mine:
            _knock(address)
            try:
                ray.init(
                    address or "local", log_to_driver=False, logging_level=logging.ERROR,
                    include_dashboard=False if not address else None,
                )  # fmt: skip
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise NasplugError(f"Ray does not start at {address!r}: {error}") from None
        has = ray.cluster_resources()
        gpus = int(has.get("GPU", 0))
        self.max_workers = gpus or int(has.get("CPU", 1))
        self._task = ray.remote(num_cpus=1, num_gpus=min(gpus, 1), max_retries=0)(_call)

    def submit(self, call: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        return self._task.remote(call, args, named).future()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if self._mine:
            ray.shutdown()


def _knock(address: str) -> None:
    """NasplugError if nobody listens at HOST:PORT: Ray would end the whole process, in minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:  # "", "auto" or "local"
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, ValueError, OverflowError) as error:
        raise NasplugError(f"no Ray answers at {address}: {error}") from None


def _call(call: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return call(*args, **named)
