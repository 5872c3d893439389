"""AutoSpace for nasplug."""

from nasplug import hookimpl


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register(
        "autospace", "nasplug_autospace.method:AutoSpace",
        "AutoSpace: a population of open cells evolves in each layer; the fittest are the space.",
    )  # fmt: skip
