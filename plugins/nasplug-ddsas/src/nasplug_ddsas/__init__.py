"""DDSAS for nasplug. Torch is imported when a search starts, not here."""

from nasplug import hookimpl
from nasplug_ddsas.method import DDSAS

__all__ = ["DDSAS"]


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register("ddsas", DDSAS)
