"""Ways to score archs, in order of preference."""

from nasplug.evaluators.predictor import PredictorEvaluator
from nasplug.evaluators.table import TableEvaluator
from nasplug.evaluators.train import TrainEvaluator
from nasplug.hookspecs import hookimpl


@hookimpl
def register_evaluators(register):  # type: ignore[no-untyped-def]
    register("table", TableEvaluator)
    register("train", TrainEvaluator)
    register("predictor", PredictorEvaluator)
