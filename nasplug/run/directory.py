"""The run directory: run.json, status.json, the lock of the process that searches, checkpoints.

Nothing here is pickled.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from datetime import datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from nasplug._version import __version__
from nasplug.errors import NasplugError
from nasplug.kernel.registry import registry
from nasplug.run.journal import Journal

FORMAT = 3  # of the run directory; a directory of another format is refused
PATIENCE = 1.0  # seconds for which a lock may be held by somebody who only looks at it
PASSWORD = re.compile(r"(?<=:)//[^/@\s]+@")  # in a URL on the command line
FIELDS = {"method", "hyperparameters", "problem", "space", "scores", "options", "environment"}


class RunDirectory:
    """One search on disk. `run` is its run.json."""

    def __init__(self, path: Path, run: dict[str, Any] | None = None) -> None:
        self.path, self.run = path, run or {}
        self._lock = FileLock(path / "lock", timeout=PATIENCE)

    @classmethod
    def create(cls, path: Path, run: dict[str, Any]) -> RunDirectory:
        """A new run directory, locked; refuses one that holds a run already."""
        directory = cls(path, {"format": FORMAT, "nasplug": __version__, **run})
        if (path / "study.json").exists():
            raise NasplugError(f"{path} holds a study: another --out starts a run")
        try:
            path.mkdir(parents=True, exist_ok=True)
            directory.lock()
            if (path / "run.json").exists():
                directory.close()
                raise NasplugError(
                    f"{path} holds a run already: `nasplug resume {path}` continues it, "
                    "another --out starts a new one"
                )
            write_json(path / "run.json", directory.run)
        except OSError as error:
            raise NasplugError(f"cannot write the run directory {path}: {error}") from None
        return directory

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """An existing run directory, not locked."""
        path = Path(path)
        try:
            run = json.loads((path / "run.json").read_text())
            written = run["format"]
        except (OSError, ValueError, TypeError, KeyError):
            raise NasplugError(
                f"{path} is not a run directory: it has no readable run.json"
            ) from None
        if written != FORMAT:
            raise NasplugError(
                f"{path} was written in format {written} by nasplug {run.get('nasplug')}; this "
                f"version reads format {FORMAT}: install that version, or run it anew"
            )
        if missing := FIELDS - run.keys():
            raise NasplugError(f"{path} is damaged: its run.json has no {min(missing)}")
        return cls(path, run)

    # ---- who works on it

    def lock(self) -> None:
        """Hold it until `close`; NasplugError that says who has it, if another process does."""
        if self._lock.is_locked:
            return
        try:
            self._lock.acquire()
        except Timeout:
            status = self.status()
            raise NasplugError(
                f"{self.path} is in use: process {status.get('pid', '?')} on "
                f"{status.get('host', 'this machine')} searches it; wait for it, or end it"
            ) from None

    def in_use(self) -> bool:
        """Whether some process holds it: a search without an end that nobody holds has died."""
        if self._lock.is_locked or not self.path.exists():  # filelock would make the folder
            return self._lock.is_locked
        try:
            with self._lock.acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a folder that only others may write
            return False

    def set_status(self, state: str, error: str = "", **more: Any) -> None:
        """status.json: "running", "finished", "failed" or "killed", and who says so."""
        status = {
            "state": state, "error": error, "time": time.time(), "pid": os.getpid(),
            "host": platform.node(), **more,
        }  # fmt: skip
        write_json(self.path / "status.json", status)

    def status(self) -> dict[str, Any]:
        """status.json; {} if it is not there or not whole."""
        return read_json(self.path / "status.json")

    def close(self) -> None:
        if "journal" in self.__dict__:
            self.journal.close()
            del self.__dict__["journal"]
        self._lock.release()

    # ---- what is in it

    @cached_property
    def journal(self) -> Journal:
        return Journal(self.path)

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Nested dicts and lists of arrays and JSON values -> checkpoint.npz, replaced atomically.

        Keys may be numbers, too; tuples come back as lists.
        """
        arrays: dict[str, npt.NDArray[Any]] = {}
        tree = json.dumps(_detach(state, arrays))
        partial = self.path / "checkpoint.part.npz"
        np.savez(partial, tree=np.array(tree), **arrays)  # type: ignore[arg-type]
        os.replace(partial, self.path / "checkpoint.npz")

    def load_checkpoint(self) -> dict[str, Any] | None:
        """What `save_checkpoint` wrote last, or None."""
        file = self.path / "checkpoint.npz"
        if not file.exists():
            return None
        try:
            with np.load(file, allow_pickle=False) as arrays:
                state: dict[str, Any] = _attach(json.loads(str(arrays["tree"])), arrays)
                return state
        except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds on damaged files
            raise NasplugError(
                f"{file} cannot be read ({error}); delete it to replay the run from its journal"
            ) from None


def write_json(path: Path, content: Any) -> None:
    """Written whole or not at all."""
    partial = path.with_suffix(f".{os.getpid()}.part")  # of a study, several processes write
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


def read_json(file: Path) -> dict[str, Any]:
    """{} if it is not there or not whole."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _detach(node: Any, arrays: dict[str, npt.NDArray[Any]]) -> Any:
    """Replace every array of a tree by the name under which it is saved, and every dict by its
    items, since the keys of JSON are text."""
    if isinstance(node, dict):
        return {"items": [[key, _detach(value, arrays)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return [_detach(value, arrays) for value in node]
    if isinstance(node, np.ndarray):
        if node.dtype.hasobject:
            raise NasplugError("a checkpoint holds arrays of numbers or text, not of objects")
        name = f"a{len(arrays)}"
        arrays[name] = node
        return {"array": name}
    return node.item() if isinstance(node, np.generic) else node


def _attach(node: Any, arrays: Any) -> Any:
    if isinstance(node, list):
        return [_attach(value, arrays) for value in node]
    if not isinstance(node, dict):
        return node
    if "array" in node:
        return arrays[node["array"]]
    return {key: _attach(value, arrays) for key, value in node["items"]}


# ---- where runs go, and what they were run with


def runs_folder() -> Path:
    """Where run directories and the local MLflow store go: ``NASPLUG_RUNS``, else ``runs``."""
    return Path(os.environ.get("NASPLUG_RUNS", "runs")).absolute()


def stem_of(method: str, problem: str) -> str:
    """For names of files: ``("dsm", "nb201:C=8/cifar10")`` -> ``"dsm-nb201-C-8-cifar10"``."""
    return re.sub(r"[/:,=]", "-", f"{method}-{problem}")


def free_directory(method: str, problem: str) -> Path:
    """``runs/METHOD-SPACE-DATA-N``, the first N that is free, as a new folder."""
    stem, number = stem_of(method, problem), 0
    while True:
        path = runs_folder() / f"{stem}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise NasplugError(f"cannot write {path}: {error}; choose another with out") from None
        else:
            return path


def environment() -> dict[str, Any]:
    """Enough to run it again: versions, commit, command line, machine."""
    return {
        "time": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "command": [PASSWORD.sub("//***@", argument) for argument in sys.argv],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git_commit": _git_commit(),
        "versions": _versions(),
    }


def _git_commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def _versions() -> dict[str, str]:
    """The versions of nasplug, of every plugin and of what they stand on."""
    found = {plugin.name: plugin.version for plugin in registry().plugins}
    for name in ("numpy", "torch", "torch-geometric", "xgboost", "scikit-learn", "mlflow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
