"""DDSAS for nasplug."""

from nasplug import hookimpl


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register(
        "ddsas", "nasplug_ddsas.method:DDSAS",
        "DDSAS: gradient search in subspaces of L operations, sampled by upper confidence bound.",
    )  # fmt: skip
