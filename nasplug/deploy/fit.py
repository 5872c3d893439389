"""The training of a found network: epochs by a recipe, each of which leaves a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import nn

from nasplug.deploy.recipes import (
    Auxiliary,
    DropPath,
    RandAugment,
    Recipe,
    averaged,
    branches,
    cut_out,
    is_image,
)
from nasplug.files import replacing
from nasplug.nn.data import Images, read
from nasplug.nn.task import CrossEntropy, call, count_of, rows_of, to
from nasplug.nn.training import (
    fixed_threads,
    initialise,
    load_checkpoint,
    save_checkpoint,
    score,
    seeded,
)


class Epoch(NamedTuple):
    """What is known after one: of the training the mean loss and the last learning rate, the metric
    on the test data, and the seconds that it took."""

    epoch: int
    loss: float
    lr: float
    test: float
    seconds: float


def fit(
    model: nn.Module,
    data: Images,
    recipe: Recipe,
    seed: int,
    checkpoint: Path | None = None,
    done: Callable[[Epoch], None] | None = None,
) -> nn.Module:
    """Train a network on the training part of the data; the network that comes of it, to evaluate.

    checkpoint: a file that is written after each epoch, and gone on from if it is there. The result
    is the same to the last bit, however often that happens. done: is told of each epoch. What the
    recipe has for images alone, other data go without. Raises FloatingPointError when the loss is
    no longer finite.
    """
    device = next(model.parameters()).device
    inputs, labels = data.train
    task, n = data.task.to(device), count_of(labels)
    steps = math.ceil(n / recipe.batch)
    images = is_image(data.example)
    parts = nn.ModuleDict({"network": model})
    if recipe.average:
        parts["average"] = averaged(model, recipe.average)
    found = cast(nn.Module, parts["average"].module if recipe.average else model)
    drop = DropPath()
    for branch in branches(model) if recipe.drop_path else ():
        branch.register_forward_hook(drop)
    if recipe.auxiliary and hasattr(model, "auxiliary"):
        parts["auxiliary"] = initialise(lambda: Auxiliary(model), seed).to(device)
    augment = RandAugment(data, *recipe.augment) if recipe.augment and images else None
    learned = [p for name, part in parts.items() if name != "average" for p in part.parameters()]
    optimiser = task.make_optimizer(learned) or torch.optim.SGD(
        learned, recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov, foreach=True,
    )  # fmt: skip
    warm, total = recipe.warmup * steps, recipe.epochs * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: (
            (step + 1) / warm
            if step < warm
            else (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))) / 2
        ),
    )
    generator = torch.Generator().manual_seed(seed)
    epoch = 0
    if recipe.smoothing and isinstance(task.loss, CrossEntropy):
        smoothed = CrossEntropy(task.loss.weight, label_smoothing=recipe.smoothing)
        task = replace(task, loss=smoothed)

    with fixed_threads(1), seeded(seed):
        if checkpoint and checkpoint.exists():
            epoch = load_checkpoint(checkpoint, generator, parts, optimiser, schedule)
        while epoch < recipe.epochs:
            start, lost = time.perf_counter(), torch.zeros((), device=device)
            drop.share = recipe.drop_path * epoch / recipe.epochs
            parts.train()
            batches = torch.randperm(n, generator=generator).tensor_split(steps)
            for batch, raw in zip(batches, read(inputs, batches), strict=True):
                x = data.normalise(augment(raw) if augment else raw)
                x = data.augment(x, generator)
                if images and recipe.cutout:
                    x = cut_out(x, recipe.cutout)
                wanted = to(rows_of(labels, batch), device)
                loss = task.cost(call(model, to(x, device)), wanted)
                lost += loss.detach()
                if "auxiliary" in parts:
                    loss = loss + recipe.auxiliary * task.cost(parts["auxiliary"](), wanted)
                if not loss.isfinite():
                    raise FloatingPointError(f"the loss is {loss.item()} in epoch {epoch}")
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                if recipe.clip:
                    nn.utils.clip_grad_norm_(learned, recipe.clip)
                optimiser.step()
                schedule.step()
                if recipe.average:
                    parts["average"].update_parameters(model)  # type: ignore[operator]
            epoch += 1
            if done:
                test = score(found, data, data.test)
                mean, lr = lost.item() / steps, float(schedule.get_last_lr()[0])
                done(Epoch(epoch, mean, lr, test, time.perf_counter() - start))
            if checkpoint:
                with replacing(checkpoint) as partial:
                    save_checkpoint(partial, epoch, generator, parts, optimiser, schedule)
    return found.eval()
