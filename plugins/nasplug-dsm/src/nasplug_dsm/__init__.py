"""DSM-NAS for nasplug."""

from nasplug import hookimpl


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register(
        "dsm", "nasplug_dsm.method:DSM",
        "DSM-NAS: a learned policy picks a subspace and edits its center; better ones take over.",
    )  # fmt: skip
