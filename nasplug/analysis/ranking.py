"""How well a supernet that is trained on a space ranks its archs: a quality of the space."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track

from nasplug.analysis.predictors import rank_correlations
from nasplug.kernel.space import Archs
from nasplug.kernel.subspace import Region
from nasplug.nn.bilevel import BiLevel, Mixture
from nasplug.nn.data import Images, Stream
from nasplug.nn.supernet import Supernet
from nasplug.nn.training import default_device, fixed_threads, initialise, seeded, to_device

BATCH = 64
SCORED = 1000  # validation images on which an arch is scored


def one_shot(
    region: Region,
    data: Images,
    value: Callable[[Archs], npt.ArrayLike],
    *,
    name: str = "",
    epochs: int,
    n: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """Train the supernet of a space by uniform paths of the region, then rank n of its archs by it.

    Guo et al., "Single Path One-Shot NAS with Uniform Sampling", ECCV 2020: each step trains one
    arch drawn from the region. value: (n, d) archs -> (n,) what they are judged by, higher
    better. Returns ``archs`` ranked, the correlations of `rank_correlations` and ``pearson``
    between accuracy in the supernet and value, and ``top1``, the value of the arch that is best
    in the supernet: what a one-shot search over these archs ends with. NasplugError if the space
    has no supernet.
    """
    space = region.space
    net = cast(Supernet, initialise(lambda: space.supernet(region), seed))
    shown = partial(track, console=Console(stderr=True), disable=not sys.stderr.isatty())
    device = default_device()
    data, net = data.to(device), to_device(net, device)
    rng = np.random.default_rng(seed)
    batches = Stream(data, data.train, BATCH, seed)
    paths = net.chosen(region.sample(epochs * batches.steps, rng))
    ones = torch.ones(paths.shape[1:], device=device)
    drawn = (Mixture(ones, path) for path in paths)
    training = BiLevel(net, [ones], lambda: next(drawn), data.task)
    with fixed_threads(1), seeded(seed):
        for step in shown(range(len(paths)), f"training on {name}"):
            training.schedule(step / len(paths))
            training.weight_step(batches[step])
        archs = space.unique(region.sample(20 * n, rng))[:n]
        accuracy = np.array(
            [net.score(arch, data, data.val, SCORED) for arch in shown(archs, "ranking")]
        )
    judged = np.asarray(value(archs), dtype=np.float64)
    known = ~np.isnan(judged)
    accuracy, judged = accuracy[known], judged[known]
    return {
        "space": name,
        "archs": len(judged),
        "pearson": float(np.corrcoef(accuracy, judged)[0, 1]),
        **rank_correlations(accuracy, judged),
        "top1": float(judged[accuracy.argmax()]),
        "mean": float(judged.mean()),
        "supernet_acc": float(accuracy.mean()),
    }
