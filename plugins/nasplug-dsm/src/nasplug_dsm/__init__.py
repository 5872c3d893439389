"""DSM-NAS for nasplug. Torch is imported when a search starts, not here."""

from nasplug import hookimpl
from nasplug_dsm.method import DSM

__all__ = ["DSM"]


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register("dsm", DSM)
