"""OStr-DARTS for nasplug."""

from nasplug import hookimpl


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register(
        "ostr-darts", "nasplug_ostr.method:OStrDarts",
        "OStr-DARTS: DARTS's supernet; the operations that the loss would miss most are selected.",
    )  # fmt: skip
