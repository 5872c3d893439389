"""DARTS, PC-DARTS and GDAS for nasplug. Torch is imported when a search starts, not here."""

from nasplug import hookimpl
from nasplug_darts.darts import Darts
from nasplug_darts.gdas import GDAS
from nasplug_darts.pc_darts import PCDarts

__all__ = ["GDAS", "Darts", "PCDarts"]


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register("darts", Darts)
    register("pc-darts", PCDarts)
    register("gdas", GDAS)
