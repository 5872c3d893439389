"""A class from a file of the user's, which nobody installed: ``hill_climber.py:HillClimber``."""

from __future__ import annotations

import hashlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from nasplug.errors import NasplugError, unknown

T = TypeVar("T")


def parse(name: str) -> tuple[Path, str] | None:
    """The file and the class, or "", that a name is of; None if it names no file.

    >>> parse("/work/hill_climber.py:HillClimber")
    (PosixPath('/work/hill_climber.py'), 'HillClimber')
    """
    file, cls = (name, "") if name.endswith(".py") else name.rpartition(":")[::2]
    return (Path(file).expanduser().absolute(), cls) if file.endswith(".py") else None


def checksum(file: Path) -> str:
    """Of what is in a file; NasplugError if it cannot be read."""
    return hashlib.sha256(_read(file)).hexdigest()


def load_class(file: Path, name: str, base: type[T]) -> type[T]:
    """The class of this name, or without one the only class of its kind that the file defines.

    Raises NasplugError for a file that cannot be imported, with the line, and for a class that is
    missing, of another kind or one of several.
    """
    kind = base.__name__.lower()
    module = _load(file)
    found = {
        one.__name__: one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, base) and one.__module__ == module.__name__
    }
    public = [one for one in found if not one.startswith("_")]
    if not name and len(public) != 1:
        raise NasplugError(
            f"{file} holds {len(public)} {kind}s, {', '.join(public)}: name one, as in "
            f"{file.name}:{public[0]}"
            if public
            else f"{file} holds no {kind}: a class derived from nasplug.{base.__name__}"
        )
    cls: Any = getattr(module, name or public[0], None)
    if cls is None:
        raise unknown(kind, name, found, f"of {file}")
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise NasplugError(
            f"{name} of {file} is no {kind}: derive the class from nasplug.{base.__name__}"
        )
    return cls


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise NasplugError(f"{file} cannot be read: {error.strerror}") from None


def _load(file: Path) -> ModuleType:
    """The module, by what is in the file: one that has been edited is another module."""
    content = _read(file)
    digest = hashlib.sha256(bytes(file) + content).hexdigest()
    module = ModuleType(f"{file.stem}_{digest[:12]}")
    if module.__name__ in sys.modules:
        return sys.modules[module.__name__]
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # where dataclasses and type hints look their module up
    try:
        exec(compile(content, str(file), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:  # whatever a foreign import raises
        del sys.modules[module.__name__]
        raise NasplugError(
            f"{file}, line {_line(error, file)}: {type(error).__name__}: {_words(error)}"
        ) from error
    return module


def _line(error: BaseException, file: Path) -> int:
    """The last line of the file on the way to an error."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return error.lineno or 1
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno or 1 for f in reversed(frames) if f.filename == str(file)), 1)


def _words(error: BaseException) -> str:
    return error.msg if isinstance(error, SyntaxError) else str(error)
