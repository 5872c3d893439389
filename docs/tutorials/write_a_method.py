# %% [markdown]
# # Write a method
#
# A method owns its state, declares its hyperparameters, and implements the hooks that it cares
# about. This one draws each decision as the better half of what was tried took it.

# %%
import numpy as np

import nasplug
from nasplug import Float, Int, Method, hookimpl


class Marginals(Method):
    """Draw each decision as the better half of the last archs took it."""

    memory = Int(20, low=4, high=1000, log=True, doc="how many archs are looked back at")
    explore = Float(0.1, low=0, high=1, doc="share of decisions drawn from all choices")

    @hookimpl
    def propose(self, search, subspace):
        archs = subspace.sample(search.wanted, search.rng)
        if len(search.trials) < self.memory:
            return archs
        best = np.argsort(-search.trials.scores[-self.memory :], kind="stable")
        good = search.trials.archs[-self.memory :][best[: self.memory // 2]]
        donors = search.rng.integers(len(good), size=archs.shape)
        drawn = np.take_along_axis(good, donors, axis=0)  # of each decision by itself
        drawn = np.where(search.rng.random(archs.shape) < self.explore, archs, drawn)
        inside = subspace.contains(drawn)
        archs[inside] = drawn[inside]
        return archs


# %% [markdown]
# An object of it is searched with as it is; in a file, `./marginals.py:Marginals` is its name.

# %%
space = nasplug.Space({f"x{i}": range(6) for i in range(6)})
result = nasplug.search(
    Marginals(explore=0.05),
    space=space,
    evaluate=lambda arch: -sum((x - 3) ** 2 for x in arch.values()),
    budget=150,
    tracking=False,
)
print(result.best.params, result.best.value)

# %% [markdown]
# Whether it behaves is a list of checks: that the seed fixes every trial, that a killed search
# goes on as if nothing had happened, that it keeps to a region, and so on. `nasplug check` runs
# all of them; here are some.

# %%
from nasplug.testing import method_checks  # noqa: E402

for check in method_checks(Marginals())[:6]:
    check()
    print("ok:", check)

# %% [markdown]
# To give it a name, `nasplug new method marginals` writes a distribution, tests and all. The
# [tutorial for authors](../authors/tutorial.md) goes on from here to a comparison with DSM-NAS.
