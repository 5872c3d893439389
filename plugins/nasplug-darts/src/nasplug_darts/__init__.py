"""DARTS, PC-DARTS and GDAS for nasplug."""

from nasplug import hookimpl


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register(
        "darts", "nasplug_darts.darts:Darts",
        "DARTS: a softmax over all operations, learned by gradient; the largest weight wins.",
    )  # fmt: skip
    register(
        "pc-darts", "nasplug_darts.pc_darts:PCDarts",
        "PC-DARTS: 1/K of the channels pass the operations; the edges are weighed too.",
    )  # fmt: skip
    register(
        "gdas", "nasplug_darts.gdas:GDAS",
        "GDAS: one operation per edge and step, drawn by Gumbel-softmax with gradient.",
    )  # fmt: skip
