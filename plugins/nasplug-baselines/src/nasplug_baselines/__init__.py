"""The methods that every paper has to beat."""

from nasplug import hookimpl


@hookimpl
def register_methods(register):  # type: ignore[no-untyped-def]
    register(
        "random", "nasplug_baselines.random:Random",
        "Random search: uniform samples of the region.",
    )  # fmt: skip
    register(
        "regularized-evolution", "nasplug_baselines.regularized_evolution:RegularizedEvolution",
        "Regularized evolution: mutate the best of a random tournament; the oldest dies.",
    )  # fmt: skip
    register(
        "local-search", "nasplug_baselines.local_search:LocalSearch",
        "Local search: climb from neighbor to neighbor; from a local optimum, restart at random.",
    )  # fmt: skip
    register(
        "reinforce", "nasplug_baselines.reinforce:Reinforce",
        "REINFORCE: a softmax per decision, learned by policy gradient with a moving baseline.",
    )  # fmt: skip
    register(
        "bananas", "nasplug_baselines.bananas:Bananas",
        "BANANAS: of mutants of the best, an ensemble of networks picks by Thompson sampling.",
    )  # fmt: skip
    register(
        "nsga2", "nasplug_baselines.nsga2:NSGA2",
        "NSGA-II: evolution for several objectives, by front and crowding distance.",
    )  # fmt: skip
    register(
        "successive-halving", "nasplug_baselines.successive_halving:SuccessiveHalving",
        "Successive halving: of many archs at a low fidelity the best go on to the next higher.",
    )  # fmt: skip
    register(
        "hyperband", "nasplug_baselines.hyperband:Hyperband",
        "Hyperband: successive halving from many archs at a low fidelity to few at the full one.",
    )  # fmt: skip
