"""What LISSNAS is compared with: other ways to shrink a space, driven by the same predictor."""

from nasplug import hookimpl


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register(
        "shrink-abs", "nasplug_shrinkers.pruning:ABS",
        "ABS-like: the operation with the lowest mean prediction is dropped wherever it occurs.",
    )  # fmt: skip
    register(
        "shrink-padnas", "nasplug_shrinkers.pruning:PADNAS",
        "PADNAS-like: layer by layer, the operation with the lowest mean prediction is dropped.",
    )  # fmt: skip
    register(
        "shrink-nse", "nasplug_shrinkers.segments:NSE",
        "NSE-like: evolves the space by segments, inheriting the choices that its best archs use.",
    )  # fmt: skip
    register(
        "shrink-random", "nasplug_shrinkers.ranking:RandomShrink",
        "Random shrink: the best-predicted archs of a random sample (appendix H.1 of LISSNAS).",
    )  # fmt: skip
    register(
        "shrink-top", "nasplug_shrinkers.ranking:TopN",
        "Plain top-N: the best-predicted archs of the whole space, where that can be listed.",
    )  # fmt: skip
