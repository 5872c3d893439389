"""ProxylessNAS and SPOS for nasplug. Torch is imported when a search starts, not here."""

from nasplug import hookimpl
from nasplug_oneshot.proxyless import Proxyless
from nasplug_oneshot.spos import SPOS

__all__ = ["SPOS", "Proxyless"]


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register("proxyless", Proxyless)
    register("spos", SPOS)
