"""Files that are written whole or not at all, and where those lie that can be made again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nasplug.errors import NasplugError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file, for the user alone, that takes the place of `path` once it is whole; a link
    there is replaced, not followed. NasplugError if it cannot be written."""
    partial = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        try:
            partial.unlink(missing_ok=True)
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise NasplugError(f"{path} cannot be written: {error}") from None


def cache() -> Path:
    """The folder of what can be made again: ``$XDG_CACHE_HOME/nasplug``, ``~/.cache/nasplug``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nasplug"
