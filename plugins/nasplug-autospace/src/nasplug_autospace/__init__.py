"""AutoSpace for nasplug. Torch is imported when a search starts, not here."""

from nasplug import hookimpl
from nasplug_autospace.method import AutoSpace

__all__ = ["AutoSpace"]


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register("autospace", AutoSpace)
