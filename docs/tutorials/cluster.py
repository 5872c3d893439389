# %% [markdown]
# # A cluster
#
# Trials are scored wherever an executor puts them: on processes of this machine, on Dask's or
# Ray's workers. nasplug itself runs once, beside the run directory. Here Dask has two workers of
# this machine; on a cluster it is the address of its scheduler, and all else stays as it is.

# %%
from dask.distributed import Client

import nasplug

space = nasplug.Space({"width": [16, 32, 64, 128], "depth": [1, 2, 3, 4]})


def score(arch):
    """Runs on a worker: what it imports must be installed there."""
    return 1 - abs(arch["width"] - 64) / 100 - abs(arch["depth"] - 3) / 10


client = Client(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None)

# %% [markdown]
# A round has as many archs as there are workers. With the same seed the trials are the same on
# any engine, with as many workers.

# %%
result = nasplug.search(
    "regularized-evolution",
    space=space,
    evaluate=score,
    budget=16,
    workers=client.get_executor(),
    tracking=False,
)
print(result.best.params, result.best.value)
client.close()

# %% [markdown]
# On the command line it is `--workers dask:tcp://scheduler:8786`, with `nasplug-dask`;
# `--workers ray` with `nasplug-ray`; `--workers 4` for four processes. What stays the same, and
# what a worker that dies costs, is in [trials at once](../workers.md).
