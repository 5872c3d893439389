"""Evaluators that score by what an earlier run has left in its directory."""

from nasplug.hookspecs import hookimpl


@hookimpl
def register_evaluators(register):  # type: ignore[no-untyped-def]
    register(
        "supernet", "nasplug.earlier.supernet:SupernetEvaluator",
        "scored with the weights of a supernet that an earlier run has trained",
    )  # fmt: skip
    register(
        "predictor", "nasplug.earlier.predictor:PredictorEvaluator",
        "predicted by a model of what an earlier run has scored",
    )  # fmt: skip
