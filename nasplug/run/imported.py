"""What a command line names as MODULE:NAME: a network of the user's own, what loads its data."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from nasplug.errors import NasplugError, unknown


def imported(text: str) -> Any:
    """``"mypkg.models:Net"`` -> the object, from the current directory or what is installed."""
    module, _, name = text.partition(":")
    if not module or not name:
        raise NasplugError(f"{text!r} names nothing: MODULE:NAME, such as mypkg.models:Net")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise NasplugError(
                f"there is no module {error.name!r}, in {here} or installed"
            ) from None
        raise NasplugError(f"{module} does not load: {type(error).__name__}: {error}") from error
    if not hasattr(found, name):
        names = [one for one in vars(found) if not one.startswith("_")]
        raise unknown("name", name, names, f"in {found.__file__}", prefix=f"{module}:")
    return getattr(found, name)


def loaded(text: str) -> Any:
    """What a function returns, or an object that is no function, by MODULE:NAME."""
    found = imported(text)
    if not callable(found):
        return found
    try:
        return found()
    except Exception as error:
        raise NasplugError(f"{text} fails: {type(error).__name__}: {error}") from error
