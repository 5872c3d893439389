"""The trial journal of a run directory: SQLite in WAL mode, read and written here only.

Every trial is committed as soon as it is scored, so a killed process loses nothing that was
scored.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.kernel.trial import Trials

FILE = "journal.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS trials (
    number INTEGER PRIMARY KEY, round INTEGER, arch BLOB, value REAL, report REAL, cost REAL,
    state INTEGER, repeat INTEGER, feasible INTEGER, elapsed REAL, metrics TEXT, notes TEXT
) STRICT
"""
INSERT = "INSERT OR REPLACE INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
SELECT = "SELECT * FROM trials WHERE number > ? ORDER BY number LIMIT ?"
LAST = "SELECT * FROM trials ORDER BY number DESC LIMIT 1"


class Row(NamedTuple):
    """A journaled trial; None is a value that is unknown, elapsed the seconds of search so far."""

    number: int
    round: int
    arch: bytes
    value: float | None
    report: float | None
    cost: float | None
    state: int
    repeat: int
    feasible: int
    elapsed: float
    metrics: dict[str, float]
    notes: dict[str, Any]

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> Self:
        *plain, metrics, notes = row
        return cls(*plain, *(json.loads(text) if text else {} for text in (metrics, notes)))


class Journal:
    """The trials in a folder; made if there are none yet, unless it is opened to be read."""

    def __init__(self, folder: Path, read: bool = False) -> None:
        file = folder / FILE
        try:
            self._connection = sqlite3.connect(
                f"{file.absolute().as_uri()}?mode={'rw' if read else 'rwc'}", uri=True, timeout=60,
                isolation_level=None, check_same_thread=False,
            )  # fmt: skip
            if not read:
                # WAL with NORMAL: a commit survives the death of the process without an fsync.
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise NasplugError(f"the journal in {folder} cannot be opened: {error}") from None

    def append(self, trials: Trials, rows: npt.NDArray[np.intp], elapsed: float) -> None:
        """Write some rows; committed when this returns."""
        columns = (
            trials.numbers[rows].tolist(),
            trials.rounds[rows].tolist(),
            [arch.tobytes() for arch in trials.archs[rows]],
            *(_nullable(c[rows]) for c in (trials.values, trials.reports, trials.costs)),
            trials.states[rows].tolist(),
            trials.repeats[rows].tolist(),
            trials.feasible[rows].tolist(),
            [elapsed] * len(rows),
            _metrics(trials, rows),
            [json.dumps(trials.notes[r]) if r in trials.notes else None for r in rows.tolist()],
        )
        if len(rows) == 1:
            self._connection.execute(INSERT, [column[0] for column in columns])
        else:
            self._connection.execute("BEGIN")
            self._connection.executemany(INSERT, zip(*columns, strict=True))
            self._connection.execute("COMMIT")

    def read(self, after: int = -1, limit: int = -1) -> list[Row]:
        """At most `limit` trials with numbers above `after`, in order."""
        return [Row.of(row) for row in self._connection.execute(SELECT, (after, limit))]

    def last(self) -> Row | None:
        """The trial with the highest number."""
        row = self._connection.execute(LAST).fetchone()
        return Row.of(row) if row else None

    def close(self) -> None:
        self._connection.close()


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
