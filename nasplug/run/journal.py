"""The trial journal of a run directory: SQLite in WAL mode, read and written here only.

Every trial is committed as soon as it is scored, so a killed process loses nothing that was
scored. Every row carries a checksum, so that what a disk has changed is not taken for a value.
"""

from __future__ import annotations

import json
import math
import sqlite3
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.kernel.space import Space
from nasplug.kernel.trial import History, State, Trials

FILE = "journal.sqlite"
TABLE = """trials (
    number INTEGER PRIMARY KEY, round INTEGER, arch BLOB, value REAL, report REAL, cost REAL,
    state INTEGER, fidelity INTEGER, repeat INTEGER, feasible INTEGER, elapsed REAL, metrics TEXT,
    notes TEXT, checksum INTEGER
) STRICT"""
INSERT = "INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
REPLACE = INSERT.replace("INSERT", "INSERT OR REPLACE")
SELECT = "SELECT * FROM trials WHERE number > ? ORDER BY number LIMIT ?"
LAST = "SELECT * FROM trials ORDER BY number DESC LIMIT 1"
PLAIN = struct.Struct("<6q4d")  # what is no blob and no text in a row
NAN = math.nan
BLOCK = 10_000  # rows that are read at a time


class Row(NamedTuple):
    """A journaled trial; None is a value that is unknown, elapsed the seconds of search so far."""

    number: int
    round: int
    arch: bytes
    value: float | None
    report: float | None
    cost: float | None
    state: int
    fidelity: int
    repeat: int
    feasible: int
    elapsed: float
    metrics: dict[str, float]
    notes: dict[str, Any]
    checksum: int


class Past(NamedTuple):
    """All journaled trials in columns, row = trial number; one that is not there waits."""

    trials: History
    elapsed: npt.NDArray[np.float64]
    checksums: npt.NDArray[np.int64]


class Journal:
    """The trials in a folder; made if there are none yet, unless it is opened to be read."""

    def __init__(self, folder: Path, read: bool = False) -> None:
        self.file = folder / FILE
        try:
            if not read:
                self.file.touch(0o600)  # the notes are the user's
            self._connection = sqlite3.connect(
                f"{self.file.absolute().as_uri()}?mode=rw", uri=True, timeout=60,
                isolation_level=None, check_same_thread=False,
            )  # fmt: skip
            if not read:
                # WAL with NORMAL: a commit survives the death of the process without an fsync.
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute(f"CREATE TABLE IF NOT EXISTS {TABLE}")
            found = self._connection.execute("SELECT sql FROM sqlite_master").fetchall()
        except (OSError, sqlite3.Error) as error:
            raise NasplugError(f"the journal {self.file} cannot be opened: {error}") from None
        if found != [(f"CREATE TABLE {TABLE}",)]:
            raise NasplugError(f"{self.file} is no journal of this version: it has other columns")

    def append(
        self, trials: Trials, rows: npt.NDArray[np.intp], elapsed: float, again: bool = False
    ) -> int:
        """Write some rows, committed when this returns; the sum of their checksums.

        again: some of them are in it, and are replaced.
        """
        # Of one row, which is what most searches tell at a time, a slice is read twice as fast.
        at = slice(rows[0], rows[0] + 1) if len(rows) == 1 else rows
        columns = (
            trials.numbers[at].tolist(),
            trials.rounds[at].tolist(),
            [arch.tobytes() for arch in trials.archs[at]],
            *(_nullable(c[at]) for c in (trials.values, trials.reports, trials.costs)),
            trials.states[at].tolist(),
            trials.fidelities[at].tolist(),
            trials.repeats[at].tolist(),
            trials.feasible[at].tolist(),
            [elapsed] * len(rows),
            _metrics(trials, rows),
            [json.dumps(trials.notes[r]) if r in trials.notes else None for r in rows.tolist()],
        )
        checked = [(*row, checksum(row)) for row in zip(*columns, strict=True)]
        statement = REPLACE if again else INSERT
        try:
            if len(checked) == 1:
                self._connection.execute(statement, checked[0])
            else:
                with self._connection:
                    self._connection.execute("BEGIN")
                    self._connection.executemany(statement, checked)
        except sqlite3.IntegrityError:
            raise NasplugError(
                f"{self.file} has a trial {checked[0][0]} already: another process has written it"
            ) from None
        except sqlite3.Error as error:
            raise NasplugError(
                f"{self.file} cannot be written: {error}. What was scored until now is in it: "
                f"mend that, then `nasplug resume {self.file.parent}`"
            ) from None
        return sum(row[-1] for row in checked)

    def sync(self) -> None:
        """Have all of it on the disk, so that a loss of power takes nothing of it."""
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def read(self, after: int = -1, limit: int = -1) -> list[Row]:
        """At most `limit` trials with numbers above `after`, in order."""
        return [row for block in self._select(SELECT, (after, limit)) for row in block]

    def last(self) -> Row | None:
        """The trial with the highest number."""
        return next((row for block in self._select(LAST) for row in block), None)

    def past(self, space: Space, budget: int) -> Past:
        """All trials of a search of this space."""
        trials = History(space, maximize=True)
        more = [np.empty((3, 0))]
        for rows in self._select(SELECT, (-1, -1)):
            try:
                if rows[-1].number >= budget:
                    raise ValueError(f"it has more trials than the budget of {budget}")
                trials.write(_batch(rows, space), np.arange(len(rows)))
            except (ValueError, TypeError) as error:
                raise NasplugError(f"{self.file} holds no trials of this run: {error}") from None
            more.append(np.array([(row.number, row.elapsed, row.checksum) for row in rows]).T)
        columns = np.zeros((2, len(trials)))
        numbers, *filled = np.concatenate(more, axis=1)
        columns[:, numbers.astype(np.intp)] = filled
        return Past(trials, columns[0], columns[1].astype(np.int64))

    def close(self) -> None:
        self._connection.close()

    def _select(self, statement: str, parameters: Sequence[int] = ()) -> Iterator[list[Row]]:
        """The rows in blocks; NasplugError if one is not as it was written."""
        number = -1
        try:
            cursor = self._connection.execute(statement, parameters)
            while block := cursor.fetchmany(BLOCK):
                rows = []
                for row in block:
                    if checksum(row[:-1]) != row[-1] or row[0] <= number:
                        raise NasplugError(
                            f"{self.file} is damaged: trial {row[0]} is not as it was written; "
                            "put a copy of the file back, or search anew"
                        )
                    number = row[0]
                    rows.append(Row._make((*row[:11], *map(_mapping, row[11:13]), row[13])))
                yield rows
        except (sqlite3.Error, struct.error, TypeError, ValueError, RecursionError) as error:
            raise NasplugError(f"the journal {self.file} cannot be read: {error}") from None


def checksum(row: Sequence[Any]) -> int:
    """Of the columns of a row before this one."""
    (number, round, arch, value, report, cost, state, fidelity, repeat, feasible, elapsed, metrics,
     notes) = row  # fmt: skip
    numbers = PLAIN.pack(
        number, round, state, fidelity, repeat, feasible, NAN if value is None else value,
        NAN if report is None else report, NAN if cost is None else cost, elapsed,
    )  # fmt: skip
    return zlib.crc32(numbers + arch + f"{metrics} {notes}".encode())


def _mapping(text: str | None) -> dict[str, Any]:
    """Metrics or notes."""
    found = json.loads(text) if text else {}
    if not isinstance(found, dict):
        raise ValueError("metrics and notes are given by name")
    return found


def _batch(rows: Sequence[Row], space: Space) -> Trials:
    """Some rows in columns."""
    (numbers, rounds, archs, values, reports, costs, states, fidelities, repeats, feasible, _,
     metrics, notes, _) = zip(*rows, strict=True)  # fmt: skip
    if {len(arch) for arch in archs} != {space.d * space.dtype.itemsize}:
        raise ValueError(f"its archs have not the {space.d} decisions of {space.name}")
    if not set(states) <= {State.COMPLETE, State.PRUNED, State.FAILED}:
        raise ValueError("it has trials in a state that there is not")
    batch = Trials(space, np.frombuffer(b"".join(archs), space.dtype).reshape(-1, space.d))
    if not space.contains(batch.archs).all():
        raise ValueError(f"its archs are none of {space.name}")
    batch.numbers, batch.rounds = np.array(numbers), np.array(rounds)
    batch.values, batch.reports, batch.costs = np.array([values, reports, costs], dtype=float)
    batch.states = np.array(states, dtype=np.int8)
    batch.fidelities = np.array(fidelities)
    batch.repeats, batch.feasible = np.array([repeats, feasible], dtype=bool)
    for name in dict.fromkeys(name for one in metrics for name in one):
        batch.metrics[name] = np.array([one.get(name, np.nan) for one in metrics], dtype=float)
    batch.notes = {row: note for row, note in enumerate(notes) if note}
    return batch


def _nullable(column: npt.NDArray[np.float64]) -> list[float | None]:
    """SQLite has no NaN, and no zero below zero."""
    return [None if x != x else x + 0.0 for x in column.tolist()]


def _metrics(trials: Trials, rows: npt.NDArray[np.intp]) -> list[str | None]:
    if not trials.metrics:
        return [None] * len(rows)
    names = list(trials.metrics)
    columns = [trials.metrics[name][rows].tolist() for name in names]
    return [
        json.dumps({name: x for name, x in zip(names, values, strict=True) if x == x})
        for values in zip(*columns, strict=True)
    ]
