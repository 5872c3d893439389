"""Optuna's samplers as methods: why not just Optuna?"""

from nasplug import hookimpl


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register(
        "optuna", "nasplug_optuna.method:OptunaSampler",
        "Optuna: any of its samplers, or of OptunaHub's, by name.",
    )  # fmt: skip
    register(
        "optuna-tpe", "nasplug_optuna.method:OptunaTPE",
        "Optuna's TPE: tree-structured Parzen estimators of good archs and of the others.",
    )  # fmt: skip
    register(
        "optuna-nsga2", "nasplug_optuna.method:OptunaNSGA2",
        "Optuna's NSGA-II: its genetic algorithm, of one objective here.",
    )  # fmt: skip
    register(
        "optuna-cmaes", "nasplug_optuna.method:OptunaCMAES",
        "Optuna's CMA-ES: every decision as a range of whole numbers.",
    )  # fmt: skip
    register(
        "optuna-random", "nasplug_optuna.method:OptunaRandom",
        "Optuna's random sampler: each decision by itself.",
    )  # fmt: skip
