"""The methods that every paper has to beat."""

from nasplug import hookimpl
from nasplug_baselines.local_search import LocalSearch
from nasplug_baselines.random import Random
from nasplug_baselines.regularized_evolution import RegularizedEvolution
from nasplug_baselines.reinforce import Reinforce


@hookimpl
def register_methods(register):
    register("random", Random)
    register("regularized-evolution", RegularizedEvolution)
    register("local-search", LocalSearch)
    register("reinforce", Reinforce)
