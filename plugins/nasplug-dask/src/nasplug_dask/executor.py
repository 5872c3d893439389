"""The executor of a Dask cluster."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from distributed import Client
from distributed.cfexecutor import ClientExecutor

from nasplug import NasplugError

PATIENCE = 20  # seconds for the scheduler to answer


def connect(address: str) -> Executor:
    """The executor of the cluster at an address, or whose scheduler file it is.

    NasplugError if nobody answers there, or if it has no worker.
    """
    if not address:
        raise NasplugError("dask: name the scheduler, as in dask:tcp://scheduler:8786")
    if "://" in address:
        where = {"address": address}
    elif Path(address).is_file():
        where = {"scheduler_file": address}
    else:  # for which Dask would wait
        raise NasplugError(f"dask: {address} is neither a scheduler's address nor its file")
    try:
        client = Client(**where, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise NasplugError(f"no Dask scheduler answers at {address}: {error}") from None
    if not client.nthreads():
        client.close()
        raise NasplugError(f"the Dask cluster at {address} has no workers yet: start some")
    return Opened(client)


class Opened(ClientExecutor):  # type: ignore[misc]  # Dask has no type hints
    """Of a client that was opened for it, and ends with it."""

    def shutdown(self, *args: Any, **keywords: Any) -> None:
        super().shutdown(*args, **keywords)
        self._client.close()
