# %% [markdown]
# # Compare methods
#
# Methods are compared at the same budget, over seeds. This takes a problem of its own, so that
# it runs anywhere in a second; put `on="nb201/cifar10"` in its place for a table of the
# literature.

# %%
import math

import nasplug

space = nasplug.Space({f"x{i}": range(8) for i in range(5)}, name="hills")


def hills(arch):
    """Two tops, of which the lower one is wider."""
    point = list(arch.values())
    high = math.exp(-sum((x - 6) ** 2 for x in point) / 4)
    low = 0.7 * math.exp(-sum((x - 2) ** 2 for x in point) / 20)
    return max(high, low)


# %% [markdown]
# A search per method and seed, each in a directory of its own.

# %%
runs = []
for method in ("random", "regularized-evolution", "local-search"):
    for seed in range(3):
        out = f"compare/{method}-{seed}"
        nasplug.search(
            method, space=space, evaluate=hills, budget=60, seed=seed, out=out, tracking=False
        )
        runs.append(out)

# %% [markdown]
# What came of them: a table for a paper, and a page with the curves of all.

# %%
print(nasplug.report(runs, out="compare.md").read_text())
page = nasplug.report(runs, out="compare.html")

# %% [markdown]
# A run directory is read again by `nasplug.load`. Here are the best values so far.

# %%
import matplotlib.pyplot as plt  # noqa: E402

for index, run in enumerate(runs):
    best = nasplug.load(run).trials.value.cummax()
    method = run.removeprefix("compare/").removesuffix("-0")
    plt.plot(best, color=f"C{index // 3}", label=method if run.endswith("-0") else None)
plt.xlabel("trial")
plt.ylabel("best value so far")
plt.legend()
plt.show()

# %% [markdown]
# Three seeds are enough to see that it works, and not to say which is better: see what the
# standard deviation says. What is on the page is in [reports](../report.md).
