"""Locks by which a process is seen to live: whoever holds one has not ended."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout


class Presence:
    """A file whose lock a process holds for as long as it lives, however it ends.

    ``with Presence(folder / "worker-1.lock"): ...``, and others ask ``Presence.seen(file)``.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = FileLock(file, timeout=0)

    def acquire(self) -> bool:
        """Hold it until `release`; False if another process does."""
        if not self._lock.is_locked:
            self.file.parent.stat()  # a folder that has gone away would be created
            with contextlib.suppress(Timeout):
                self._lock.acquire()
        return self._lock.is_locked

    def release(self) -> None:
        if self._lock.is_locked:
            with contextlib.suppress(OSError):  # Windows keeps what is open
                self.file.unlink()
            self._lock.release()

    @classmethod
    def seen(cls, file: Path) -> bool | None:
        """Whether the process lives that made the file; None if there is no such file."""
        if not file.exists():
            return None
        with cls(file) as found:
            return not found._lock.is_locked

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
