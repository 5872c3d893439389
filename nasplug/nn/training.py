"""Real training: a network from scratch to its scores on validation and test data."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from nasplug.errors import NasplugError
from nasplug.nn.data import Images, Part, read
from nasplug.nn.mixed import BATCH_NORMS
from nasplug.nn.task import call, count_of, rows_of, to

Module = TypeVar("Module", bound=nn.Module)
Report = Callable[[int, float], bool | None]  # (epoch, score) -> whether to stop


def initialise(build: Callable[[], Module], seed: int) -> Module:
    """``build()`` with weights fixed by the seed, the global random state untouched."""
    with seeded(seed):
        return build()


def default_device() -> str:
    """Where networks are trained: the GPU of this process, as torchrun numbers them, or the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def to_device(model: Module, device: torch.device | str) -> Module:
    """On a device; on a GPU with weights that lie channels last, and so do all activations, where
    average pools have the right gradient then.

    Not on a CPU, where it would be faster too: torch 2.13 then corrupts its heap in the backward
    pass of some supernets ("double free or corruption", seen with PC-DARTS on darts/digits).
    """
    device = torch.device(device)
    if device.type == "cuda" and pools_channels_last(device):
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    placed: Module = model.to(device)
    return placed


@cache
@torch.inference_mode(mode=False)  # whoever places a network, it is tried with gradients
@torch.enable_grad()
def pools_channels_last(device: torch.device) -> bool:
    """Whether average pools have the right gradient on a device where images lie channels last.

    On GPUs torch before 2.14 takes it from the wrong pixels where there is padding, and says
    nothing (pytorch/pytorch#188344). Supernets of nb201 learned visibly worse.
    """
    images = torch.arange(32.0, device=device).reshape(1, 2, 4, 4)

    def gradient(layout: torch.memory_format) -> torch.Tensor:
        x = images.clone(memory_format=layout).requires_grad_()
        pooled = functional.avg_pool2d(x, 3, stride=1, padding=1)
        return torch.autograd.grad(pooled.square().sum(), x)[0]

    return torch.allclose(gradient(torch.contiguous_format), gradient(torch.channels_last))


def train(
    model: nn.Module,
    data: Images,
    epochs: int,
    seed: int,
    *,
    until: int | None = None,
    checkpoint: Path | None = None,
    batch_size: int = 64,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    patience: int = 0,
    half: bool = False,
    threads: int = 1,
    report: Report | None = None,
    begin: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Train `model` in place for the task of the data, by SGD with Nesterov momentum or the
    task's own optimiser, with a cosine schedule to 0.

    With `until` it stops after so many of the `epochs` of the schedule, and leaves all that it
    needs to go on in `checkpoint`; if that is there, it goes on from it. In steps or in one go, the
    result is the same to the last bit.

    patience: it ends after so many epochs without a better validation score, with the weights of
    the best epoch; not together with `checkpoint`. half: bfloat16 by torch's autocast.

    Returns ``value`` and ``report`` (the task's metric on validation and test data), ``params``,
    ``epochs`` (reached), ``trained`` (of these, now), ``pruned`` and ``seconds``. ``begin(epoch)``
    is called before every epoch, ``report(epoch, score)`` after it, and prunes by returning True.
    The same seed, model weights and `threads` give the same result to the last bit: a sum depends
    on how many threads share it, so their number is set here, and one is fastest for small
    networks.
    Raises FloatingPointError when the loss is no longer finite.
    """
    start = time.perf_counter()
    device = next(model.parameters()).device
    inputs, labels = data.train
    task = data.task.to(device)
    n = count_of(labels)
    steps = -(-n // batch_size)
    optimiser = task.make_optimizer(model.parameters()) or torch.optim.SGD(
        model.parameters(), lr, momentum=0.9, weight_decay=weight_decay, nesterov=True, foreach=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * steps)
    generator = torch.Generator().manual_seed(seed)
    until, epoch, pruned = epochs if until is None else min(until, epochs), 0, False
    best: tuple[float, int, dict[str, Any]] | None = None  # score, epoch, weights
    with fixed_threads(threads), seeded(seed):
        if checkpoint and checkpoint.exists():
            epoch = load_checkpoint(checkpoint, generator, model, optimiser, schedule)
        first = epoch
        while epoch < until and not pruned:
            if begin:
                begin(epoch + 1)
            model.train()
            batches = torch.randperm(n, generator=generator).tensor_split(steps)
            for batch, raw in zip(batches, read(inputs, batches), strict=True):
                x = data.augment(data.normalise(raw), generator)
                output = call(model, to(x, device), half)
                loss = task.cost(output, to(rows_of(labels, batch), device))
                if not loss.isfinite():
                    raise FloatingPointError(
                        f"the loss is {loss.item()} in epoch {epoch}: lower lr, or see whether "
                        "inputs and labels are finite, and real numbers of about 1"
                    )
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                schedule.step()
            epoch += 1
            if not (report or patience):
                continue
            value = score(model, data, data.val, half=half)
            pruned = bool(report and report(epoch, value))
            if best is None or (value > best[0] if task.maximize else value < best[0]):
                best = value, epoch, copy.deepcopy(model.state_dict()) if patience else {}
            elif patience and epoch - best[1] >= patience:
                break
        if best and patience:
            model.load_state_dict(best[2])
        if checkpoint and epoch < epochs:
            save_checkpoint(checkpoint, epoch, generator, model, optimiser, schedule)
        value, test = (score(model, data, part, half=half) for part in (data.val, data.test))
    return {
        "value": value,
        "report": test,
        "params": sum(p.numel() for p in model.parameters()),
        "epochs": epoch,
        "trained": epoch - first,
        "pruned": pruned,
        "seconds": time.perf_counter() - start,
    }


def save_checkpoint(file: Path, epoch: int, generator: torch.Generator, *parts: Any) -> None:
    """All that an epoch depends on: weights, optimiser, schedule, random states."""
    states = [part.state_dict() for part in parts]
    random = [generator.get_state(), torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    torch.save({"epoch": epoch, "states": states, "random": random}, file)


def load_checkpoint(file: Path, generator: torch.Generator, *parts: Any) -> int:
    """Go on from what `save_checkpoint` has kept; the epoch."""
    kept = torch.load(file, map_location="cpu", weights_only=True)
    for part, state in zip(parts, kept["states"], strict=True):
        part.load_state_dict(state)
    own, cpu, *cuda = kept["random"]
    generator.set_state(own)
    torch.set_rng_state(cpu)
    for device, state in enumerate(cuda[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)
    return int(kept["epoch"])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global random state, which dropout draws from, fixed by a seed; then as it was."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextmanager
def fixed_threads(n: int) -> Iterator[None]:
    """Torch's own number of threads set to n, on which the last bit of a sum depends."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def score(
    model: nn.Module, data: Images, part: Part, limit: int | None = None, half: bool = False
) -> float:
    """The metric of the data's task on `part` (at most its first `limit`): of classes the accuracy,
    in %. half: in bfloat16. NasplugError if it is not finite."""
    device = next(model.parameters()).device
    model.eval()
    inputs, labels = part[0], rows_of(part[1], slice(limit))
    kept = []
    rows = torch.arange(count_of(labels), device=tree_leaves(labels)[0].device)
    for raw in read(inputs, torch.split(rows, 500)):
        x = to(data.normalise(to(raw, data.mean.device)), device)
        kept.append(data.task.metric.kept(call(model, x, half)))
    value = data.task.score(kept, labels)
    if not math.isfinite(value):
        raise NasplugError(f"metric {data.task.metric.name} is {value}")
    return value


@torch.no_grad()
def recalibrate(model: nn.Module, data: Images, batches: int = 20, batch: int = 250) -> nn.Module:
    """Give every batch norm the mean statistics of some training batches; returns the model.

    All else is as it will be when the model is used: dropout, say, is off.

    For networks whose weights were inherited from a supernet.
    """
    device = next(model.parameters()).device
    norms = [norm for norm in model.modules() if isinstance(norm, BATCH_NORMS)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.track_running_stats, norm.momentum = True, None
        norm.running_mean = torch.zeros(norm.num_features, device=device)
        norm.running_var = torch.ones(norm.num_features, device=device)
        norm.num_batches_tracked = torch.zeros((), dtype=torch.int64, device=device)
    model.eval()
    for norm in norms:
        norm.train()
    inputs, labels = data.train
    rows = torch.arange(count_of(labels), device=tree_leaves(labels)[0].device)
    for raw in read(inputs, torch.split(rows, batch)[:batches]):
        call(model, to(data.normalise(to(raw, data.mean.device)), device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


@torch.no_grad()
def count(model: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image of that shape, of a built network.

    Counted on the network itself: convolutions and linear layers, as `nasplug.spaces` does.
    """
    total = 0

    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += module.weight[0].numel() * output[0].numel()
        elif isinstance(module, nn.Linear):
            total += module.weight.numel()

    handles = [module.register_forward_hook(add) for module in model.modules()]
    training = model.training
    model.eval()(torch.zeros(1, *shape, device=next(model.parameters()).device))
    model.train(training)
    for handle in handles:
        handle.remove()
    return sum(p.numel() for p in model.parameters()), total
