"""Ways to score archs, in order of preference; those that read run directories are in
`nasplug.run`."""

from nasplug.hookspecs import hookimpl


@hookimpl
def register_evaluators(register):  # type: ignore[no-untyped-def]
    register("table", "nasplug.evaluators.table:TableEvaluator", "looked up in a benchmark's table")
    register("train", "nasplug.evaluators.train:TrainEvaluator", "trained from scratch")
    register("supernet", "nasplug.run.supernet:SupernetEvaluator", "with the weights of a supernet")
    register("predictor", "nasplug.run.predictor:PredictorEvaluator", "predicted by a model")
    register("function", "nasplug.evaluators.function:FunctionEvaluator", "your own function")
