"""Zero-cost proxies: scores of networks that nobody has trained."""

from nasplug import hookimpl


@hookimpl
def register_evaluators(register):  # type: ignore[no-untyped-def]
    register(
        "proxy", "nasplug_proxies.evaluator:ProxyEvaluator",
        "by zero-cost proxies, as proxy:naswot or proxy:naswot+synflow",
    )  # fmt: skip
