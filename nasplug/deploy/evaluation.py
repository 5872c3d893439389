"""`nasplug.evaluate`: the winner of a run on the data for the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map

from nasplug.deploy.winner import Winner
from nasplug.errors import NasplugError
from nasplug.kernel.selection import Selection
from nasplug.kernel.space import Space
from nasplug.nn.data import layout, read
from nasplug.nn.task import CrossEntropy, call, count_of, to
from nasplug.nn.training import default_device

BATCH = 500


def evaluate(
    run: Selection | Path | str,
    *,
    data: Any = None,
    space: Space | None = None,
    model: Callable[[], Any] | str | None = None,
) -> dict[str, Any]:
    """Measure the winner of a finished run on the test data: as it was retrained, if it was, or
    else with the weights that scored it.

    data: as `nasplug.search` takes them; by default those that were searched on. Returns the metric
    (of classes the accuracy, in %), the loss, of classes the accuracy of each, params and flops
    (multiply-adds of one input), and which weights these are. NasplugError for whatever the user
    can mend.
    """
    winner = Winner.of(run, space, model)
    network = winner.network()
    images, name = winner.images(data)
    if (given := layout(images.example)) != network.inputs:
        raise NasplugError(
            f"the network takes inputs of {network.inputs}, and the data have {given}: give those "
            "that it was trained on"
        )
    inputs, labels = images.test
    task, n = images.task, count_of(labels)
    images.check(network.model)
    device = default_device()
    module = network.model.to(device)
    with torch.no_grad():
        outputs = [
            to(call(module, to(images.normalise(raw), device)), "cpu")
            for raw in read(inputs, torch.split(torch.arange(n), BATCH))
        ]
    output = tree_map(lambda *parts: torch.cat(parts), *outputs)
    per_class = {}
    if isinstance(task.loss, CrossEntropy) and labels.ndim == 1:
        right = output.argmax(1) == labels
        per_class = {
            k: 100 * right[labels == k].double().mean().item() for k in sorted({*labels.tolist()})
        }
    return {
        "arch": str(winner.best),
        "weights": "retrained" if winner.retraining else "inherited",
        "data": name,
        "test_inputs": n,
        f"test_{task.metric.name}": task.score([task.metric.kept(output)], labels),
        "loss": task.cost(output, labels).item(),
        "per_class": per_class,
        "params": sum(p.numel() for p in module.parameters()),
        "flops": _flops(network.space, network.arch),
    }


def _flops(space: Space, arch: Any) -> int | None:
    try:
        return int(space.flops(arch[None])[0])
    except NasplugError:
        return None
