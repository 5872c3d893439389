"""What LISSNAS is compared with: other ways to shrink a space, driven by the same predictor."""

from nasplug import hookimpl
from nasplug_shrinkers.pruning import ABS, PADNAS
from nasplug_shrinkers.ranking import RandomShrink, TopN
from nasplug_shrinkers.segments import NSE


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register("shrink-abs", ABS)
    register("shrink-padnas", PADNAS)
    register("shrink-nse", NSE)
    register("shrink-random", RandomShrink)
    register("shrink-top", TopN)
