"""Store: the searches of all comparisons, each kept once: ``runs/comparisons.db``."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from nasplug.comparison.searches import Record
from nasplug.errors import NasplugError

PATIENCE = 60.0  # seconds to wait for another comparison that writes
ASKED = 500  # keys in one question

TABLE = "CREATE TABLE IF NOT EXISTS searches (key TEXT PRIMARY KEY, record TEXT NOT NULL)"


class Store:
    """Records by key, in an SQLite database that several comparisons may share; what has been put
    survives any end of the process."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(file, timeout=PATIENCE, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute(TABLE)
        except (OSError, sqlite3.Error) as error:
            raise NasplugError(
                f"{file}, which keeps the searches of comparisons, cannot be used: {error}; delete "
                "it, or set NASPLUG_RUNS to another folder"
            ) from None

    def find(self, keys: Iterable[str]) -> dict[str, Record]:
        """Those that are there."""
        wanted, found = list(keys), dict[str, str]()
        for start in range(0, len(wanted), ASKED):
            some = wanted[start : start + ASKED]
            marks = ",".join("?" * len(some))
            question = f"SELECT key, record FROM searches WHERE key IN ({marks})"
            found.update(self._database.execute(question, some).fetchall())
        return {key: json.loads(record) for key, record in found.items()}

    def put(self, key: str, record: Record) -> None:
        row = (key, json.dumps(record, allow_nan=False))
        self._database.execute("INSERT OR REPLACE INTO searches VALUES (?, ?)", row)

    def close(self) -> None:
        with closing(self._database):
            pass
