"""ProxylessNAS, SPOS and the training of supernets for nasplug."""

from nasplug import hookimpl


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register(
        "proxyless", "nasplug_oneshot.proxyless:Proxyless",
        "ProxylessNAS: one path of a supernet in memory to learn weights, two to learn them.",
    )  # fmt: skip
    register(
        "spos", "nasplug_oneshot.spos:SPOS",
        "SPOS: uniformly drawn paths train a supernet; evolution then searches it for the best.",
    )  # fmt: skip
    register(
        "supernet", "nasplug_oneshot.supernet:SupernetTraining",
        "A supernet and no search: uniform or fair paths, or Once-for-All's progressive shrinking.",
    )  # fmt: skip
