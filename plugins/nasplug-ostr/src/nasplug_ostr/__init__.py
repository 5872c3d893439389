"""OStr-DARTS for nasplug. Torch is imported when a search starts, not here."""

from nasplug import hookimpl
from nasplug_ostr.method import OStrDarts

__all__ = ["OStrDarts"]


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register("ostr-darts", OStrDarts)
