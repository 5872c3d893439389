"""The run directory: run.json, status.json, the lock of the process that searches, checkpoints.

Nothing here is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import time
import uuid
import zlib
from collections.abc import Callable, Mapping
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
from nasplug.files import replacing
from nasplug.kernel.registry import registry
from nasplug.kernel.tree import jsonable, read_arrays
from nasplug.run.journal import FILE, Journal, Past
from nasplug.run.secrets import command_line

FORMAT = 7  # of the run directory; a directory of another format is refused
PATIENCE = 1.0  # seconds for which a lock may be held by somebody who only looks at it
CHECKPOINTS = ("checkpoint.npz", "checkpoint.old.npz")  # the last two, the newest first

# What a JSON file holds: by name the types of its value, or what a dict or a list of dicts holds.
Schema = Mapping[str, Any]
NONE, NUMBER = type(None), (int, float)
RUN: Schema = {
    "format": (int,), "nasplug": (str,), "key": (str,),
    "method": (str,), "hyperparameters": (dict,), "problem": (str, NONE),
    "space": {
        "name": (str,), "data": (str,), "fingerprint": (str,), "decisions": (dict, NONE),
        "inputs": (dict, NONE),
    },
    "model": (str, NONE), "data": (bool, str), "direction": (str,),
    "evaluator": (str, NONE), "reward": (str, NONE), "report": (str, NONE),
    "scores": {
        "problem": (str,), "evaluator": (str,), "maximize": (bool,), "reward": (str,),
        "report": (str,), "apart": (bool,), "fidelity": (list, NONE),
    },
    "fidelity": (list, NONE), "init": (str, NONE), "first": (list, NONE), "within": (bool,),
    "prune": (str, NONE), "workers": (str, NONE), "retries": (int,), "tracking": (bool,),
    "options": {
        "budget": NUMBER, "seed": (int,), "repeats": (str,), "isomorphs": (str, NONE),
        "constraints": (list,), "objectives": (list,), "scalarise": (str, NONE),
        "latency": (dict, NONE),
        "max_cost": (*NUMBER, NONE), "max_seconds": (*NUMBER, NONE),
        "at_once": (int,), "asynchronous": (bool,),
    },
    "environment": {"time": (str,), "python": (str,), "platform": (str,), "versions": (dict,)},
    "checksum": (int,),
}  # fmt: skip
STATUS: Schema = {
    "state": (str,), "error": (str,), "time": NUMBER, "pid": (int,), "host": (str,),
    "checksum": (int,),
}  # fmt: skip
FINISHED: Schema = {"stopped": (str,), "seconds": NUMBER, "rounds": (int,), "table": (str,)}
CELLS = (
    "size", "reduction", "queried", "mean", "max", "good", "shrink_index", "edf_area", "ks",
    "mean_distance", "max_distance", "coverage",
)  # fmt: skip
QUALITY: Schema = {  # space.json
    "judged_by": (str,), "predictor": (dict, NONE),
    "spaces": [{
        "space": (str,), "mean_interval": (list, NONE), **dict.fromkeys(CELLS, (*NUMBER, NONE)),
    }],
}  # fmt: skip


class RunDirectory:
    """One search on disk. `run` is its run.json."""

    def __init__(self, path: Path, run: dict[str, Any] | None = None) -> None:
        self.path, self.run = path, run or {}
        self._lock = FileLock(path / "lock", timeout=PATIENCE)
        self._sound = False  # checkpoint.npz is worth keeping as the one before the next

    @classmethod
    def create(cls, path: Path, run: dict[str, Any]) -> RunDirectory:
        """A new run directory, locked; refuses one that holds a run already."""
        run = {
            "format": FORMAT, "nasplug": __version__, "key": uuid.uuid4().hex,
            **jsonable(run, "run.json"),
        }  # fmt: skip
        directory = cls(path, {**run, "checksum": _checksum(run)})
        if name := misfit(directory.run, RUN):
            raise NasplugError(f"{name} has a value of a type that it does not take")
        try:
            path.mkdir(parents=True, exist_ok=True)
            for other in ("study", "comparison"):
                if (path / f"{other}.json").exists():
                    raise NasplugError(f"{path} holds a {other}: another --out starts a run")
            _refuse_links(path)
        except OSError as error:
            raise NasplugError(f"cannot write the run directory {path}: {error}") from None
        directory.lock()
        if (path / "run.json").exists():
            directory.close()
            raise NasplugError(
                f"{path} holds a run already: `nasplug resume {path}` continues it, "
                "another --out starts a new one"
            )
        write_json(path / "run.json", directory.run)
        return directory

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """An existing run directory, not locked; NasplugError if it is damaged."""
        path = Path(path)
        try:
            _refuse_links(path)
            run = json.loads((path / "run.json").read_text())
            written = run["format"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            raise NasplugError(
                f"{path} is not a run directory: it has no readable run.json"
            ) from None
        if written != FORMAT:
            raise NasplugError(
                f"{path} was written in format {written} by nasplug {run.get('nasplug')}; this "
                f"version reads format {FORMAT}: install that version, or run it anew"
            )
        if name := misfit(run, RUN):
            raise NasplugError(f"{path} is damaged: its run.json has no {name} that makes sense")
        if run["checksum"] != _checksum(run):
            raise NasplugError(
                f"{path} is damaged: its run.json is not as it was written; put a copy of it back"
            )
        return cls(path, run)

    # ---- who works on it

    def lock(self) -> None:
        """Hold it until `close`; NasplugError that says who has it, if another process does."""
        if self._lock.is_locked:
            return
        try:
            self._lock.acquire()
        except Timeout:  # which is an OSError, too
            status = self.status()
            raise NasplugError(
                f"{self.path} is in use: process {status.get('pid', '?')} on "
                f"{status.get('host', 'this machine')} searches it; wait for it, or end it"
            ) from None
        except OSError as error:
            raise NasplugError(f"cannot write the run directory {self.path}: {error}") from None

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
        write_json(self.path / "status.json", {**status, "checksum": _checksum(status)})

    def status(self) -> dict[str, Any]:
        """status.json; {} if it is not there or not as it was written."""
        status = read_json(self.path / "status.json")
        sound = not misfit(status, STATUS) and status["checksum"] == _checksum(status)
        return status if sound else {}

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
        """Nested dicts and lists of arrays and JSON values -> checkpoint.npz, replaced atomically;
        the one before is kept.

        Keys may be numbers, too; tuples come back as lists.
        """
        arrays: dict[str, npt.NDArray[Any]] = {}
        tree = json.dumps(_detach(state, arrays))
        newest, older = (self.path / name for name in CHECKPOINTS)
        with replacing(newest) as partial:
            np.savez(partial, tree=np.array(tree), **arrays)  # type: ignore[arg-type]
            if self._sound:
                os.replace(newest, older)
        self._sound = True

    def about(self, trials: int, checksums: int) -> dict[str, Any]:
        """Which run a checkpoint is of, and after which trials."""
        return {
            "run": self.run["key"], "seed": self.run["options"]["seed"],
            "trials": trials, "checksums": checksums,
        }  # fmt: skip

    def fits(self, state: dict[str, Any], past: Past) -> bool:
        """Whether a checkpoint is of this run, and all trials until then are in the journal."""
        n = int(state["trials"])
        about = self.about(n, int(past.checksums[:n].sum()))
        whole = int((past.trials.states[:n] > 0).sum()) == n
        return whole and about == {name: state[name] for name in about}

    def load_checkpoint(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """The newest checkpoint that is whole and fits; None if there is no checkpoint at all.

        NasplugError if there are some, but none will do.
        """
        reasons = {}
        for file in (self.path / name for name in CHECKPOINTS):
            if not file.exists():
                continue
            try:
                arrays = read_arrays(file)
                state: dict[str, Any] = _attach(json.loads(str(arrays["tree"])), arrays)
                if fits(state):
                    self._sound = file.name == CHECKPOINTS[0]
                    return state
                reasons[file.name] = f"does not fit the trials in {FILE}"
            except Exception as error:  # a damaged file: see `read_arrays`
                reasons[file.name] = f"cannot be read ({error})"
        if not reasons:
            return None
        found = ", ".join(f"{name} {reason}" for name, reason in reasons.items())
        raise NasplugError(
            f"{self.path} is damaged: its {found}. Put a copy back, or delete "
            f"{' and '.join(reasons)} to replay the run from its journal"
        )


def write_json(path: Path, content: Any) -> None:
    """Written whole or not at all; numbers that are not finite as null."""
    text = json.dumps(jsonable(content, path.name), indent=2, allow_nan=False)
    with replacing(path) as partial:
        partial.write_text(text + "\n")


def digest(content: Mapping[str, Any]) -> str:
    """By which content that JSON can hold is known again, in whatever order its names stand."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_json(file: Path, schema: Schema | None = None) -> dict[str, Any]:
    """{} if it is not there or not whole; with a schema, damage is a NasplugError."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        content = None
    if schema is not None and file.exists() and (name := misfit(content, schema)):
        raise NasplugError(f"{file} is damaged: it has no {name} that makes sense; delete it")
    return content if isinstance(content, dict) else {}


def misfit(content: Any, schema: Schema, at: str = "") -> str:
    """The name of the first value in a JSON file that is missing or of a wrong type, or ""."""
    if type(content) is not dict:
        return at or "content"
    for name, kinds in schema.items():
        inner = f"{at}.{name}".lstrip(".")
        if isinstance(kinds, list):  # of things that are alike
            things = content.get(name)
            if type(things) is not list:
                return inner
            if found := next(filter(None, (misfit(x, kinds[0], inner) for x in things)), ""):
                return found
        elif isinstance(kinds, Mapping):
            if found := misfit(content.get(name), kinds, inner):
                return found
        elif name not in content or type(content[name]) not in kinds:
            return inner
    return ""


def _checksum(content: Mapping[str, Any]) -> int:
    """Of what run.json or status.json holds beside it."""
    others = {name: value for name, value in content.items() if name != "checksum"}
    return zlib.crc32(json.dumps(others, sort_keys=True).encode())


def _refuse_links(path: Path) -> None:
    """What nasplug writes are plain files: others would have it read or write elsewhere."""
    for entry in os.scandir(path):
        if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
            raise NasplugError(
                f"{path} holds {entry.name}, which is a link or no plain file: nasplug writes "
                "and follows none; delete it"
            )


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
    """For names of files: ``("random", "nb201:C=8/cifar10")`` -> ``"random-nb201-C-8-cifar10"``."""
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
        "command": command_line(),
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
