"""LISSNAS for nasplug."""

from nasplug import hookimpl


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register(
        "lissnas", "nasplug_lissnas.method:LISSNAS",
        "LISSNAS: shrinks the space to pockets around the archs that a predictor finds best.",
    )  # fmt: skip
