"""LISSNAS for nasplug."""

from nasplug import hookimpl
from nasplug_lissnas.method import LISSNAS
from nasplug_lissnas.shrink import Pockets, Shrunk

__all__ = ["LISSNAS", "Pockets", "Shrunk"]


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register("lissnas", LISSNAS)
