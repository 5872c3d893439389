"""The run directory: run.json, the trial journal (SQLite, WAL), checkpoints.

Every trial is committed as soon as it is scored, so a killed process loses nothing that was
scored. Nothing here is pickled.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.trial import Trials

FORMAT = 2  # of the run directory; a directory of another format is refused

SCHEMA = """
CREATE TABLE IF NOT EXISTS trials (
    number INTEGER PRIMARY KEY, round INTEGER, arch BLOB, value REAL, report REAL, cost REAL,
    state INTEGER, repeat INTEGER, feasible INTEGER, elapsed REAL, metrics TEXT, notes TEXT
) STRICT
"""
INSERT = "INSERT OR REPLACE INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class RunDirectory:
    """One search on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None

    @classmethod
    def create(cls, path: Path, run: dict[str, Any]) -> RunDirectory:
        """A new run directory; refuses one that holds a run already."""
        if (path / "run.json").exists():
            raise NasplugError(
                f"{path} holds a run already: `nasplug resume {path}` continues it, "
                "another --out starts a new one"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / "run.json", {"format": FORMAT, **run})
        except OSError as error:
            raise NasplugError(f"cannot write the run directory {path}: {error}") from None
        return cls(path)

    @classmethod
    def open(cls, path: Path | str) -> tuple[RunDirectory, dict[str, Any]]:
        """An existing run directory and its run.json."""
        path = Path(path)
        try:
            run = json.loads((path / "run.json").read_text())
            version = run["format"]
        except (OSError, ValueError, TypeError, KeyError):
            raise NasplugError(
                f"{path} is not a run directory: it has no readable run.json"
            ) from None
        if version != FORMAT:
            raise NasplugError(
                f"{path} was written in format {version} by nasplug {run.get('nasplug')}; this "
                f"version reads format {FORMAT}: install that version, or run it anew"
            )
        if lacking := {"method", "problem", "space", "options", "environment"} - run.keys():
            raise NasplugError(f"{path} is damaged: its run.json has no {min(lacking)}")
        return cls(path), run

    @property
    def connection(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = sqlite3.connect(
                    self.path / "journal.sqlite", timeout=60, isolation_level=None,
                    check_same_thread=False,
                )  # fmt: skip
                # WAL with NORMAL: a commit survives the death of the process without an fsync.
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._connection.execute(SCHEMA)
            except sqlite3.DatabaseError as error:
                raise NasplugError(
                    f"the journal in {self.path} cannot be opened: {error}"
                ) from None
        return self._connection

    def append(self, trials: Trials, rows: npt.NDArray[np.intp], elapsed: float) -> None:
        """Journal some rows; committed when this returns."""
        archs = trials.archs[rows]
        columns = (
            trials.numbers[rows].tolist(),
            trials.rounds[rows].tolist(),
            [arch.tobytes() for arch in archs],
            *(_nullable(c[rows]) for c in (trials.values, trials.reports, trials.costs)),
            trials.states[rows].tolist(),
            trials.repeats[rows].tolist(),
            trials.feasible[rows].tolist(),
            [elapsed] * len(rows),
            _metrics(trials, rows),
            [json.dumps(trials.notes[r]) if r in trials.notes else None for r in rows.tolist()],
        )
        if len(rows) == 1:
            self.connection.execute(INSERT, [column[0] for column in columns])
        else:
            self.connection.execute("BEGIN")
            self.connection.executemany(INSERT, zip(*columns, strict=True))
            self.connection.execute("COMMIT")

    def rows(self, after: int = -1, limit: int = -1) -> Iterator[dict[str, Any]]:
        """The journaled trials with a number above `after`, in order."""
        cursor = self.connection.execute(
            "SELECT * FROM trials WHERE number > ? ORDER BY number LIMIT ?", (after, limit)
        )
        names = [column[0] for column in cursor.description]
        for row in cursor:
            trial = dict(zip(names, row, strict=True))
            for name in ("metrics", "notes"):
                trial[name] = json.loads(trial[name]) if trial[name] else {}
            yield trial

    def set_status(self, state: str, error: str = "") -> None:
        """status.json: "running", "finished", "failed" or "killed", and who says so."""
        status = {
            "state": state,
            "error": error,
            "time": time.time(),
            "pid": os.getpid(),
            "host": platform.node(),
        }
        write_json(self.path / "status.json", status)

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Nested dicts of arrays and JSON values -> checkpoint.npz, replaced atomically."""
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
                return _attach(json.loads(str(arrays["tree"])), arrays)
        except (OSError, ValueError, KeyError) as error:
            raise NasplugError(
                f"{file} cannot be read ({error}); delete it to replay the run from its journal"
            ) from None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def write_json(path: Path, content: Any) -> None:
    """Written whole or not at all."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


def _nullable(column: npt.NDArray[np.float64]) -> list[float | None]:
    """SQLite has no NaN."""
    return [None if x != x else x for x in column.tolist()]


def _metrics(trials: Trials, rows: npt.NDArray[np.intp]) -> list[str | None]:
    if not trials.metrics:
        return [None] * len(rows)
    names = list(trials.metrics)
    columns = [trials.metrics[name][rows].tolist() for name in names]
    return [
        json.dumps({name: x for name, x in zip(names, values, strict=True) if x == x})
        for values in zip(*columns, strict=True)
    ]


def _detach(node: Any, arrays: dict[str, npt.NDArray[Any]]) -> Any:
    """Replace every array of a tree by the name under which it is saved."""
    if isinstance(node, dict):
        return {str(key): _detach(value, arrays) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_detach(value, arrays) for value in node]
    if isinstance(node, np.ndarray):
        name = f"a{len(arrays)}"
        arrays[name] = node
        return {"__array__": name}
    return node.item() if isinstance(node, np.generic) else node


def _attach(node: Any, arrays: Any) -> Any:
    if isinstance(node, dict):
        if set(node) == {"__array__"}:
            return arrays[node["__array__"]]
        return {key: _attach(value, arrays) for key, value in node.items()}
    if isinstance(node, list):
        return [_attach(value, arrays) for value in node]
    return node
