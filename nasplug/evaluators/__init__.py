"""Ways to score archs, in order of preference."""

from nasplug.hookspecs import hookimpl


@hookimpl
def register_evaluators(register):  # type: ignore[no-untyped-def]
    register("table", "nasplug.evaluators.table:TableEvaluator", "looked up in a benchmark's table")
    register("train", "nasplug.evaluators.train:TrainEvaluator", "trained from scratch")
    register("function", "nasplug.evaluators.function:FunctionEvaluator", "your own function")
