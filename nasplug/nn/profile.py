"""What a network costs on this machine: latency, peak memory, multiply-adds, parameters."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from nasplug.nn.task import call, to
from nasplug.nn.training import fixed_threads

WARM_UP = 3  # forward passes that are not timed
FEWEST, MOST = 10, 300  # that are
SECONDS = 0.1  # of them, after which the fewest are enough


class Latency(NamedTuple):
    """Of some forward passes, in ms: their median and quartiles."""

    median: float
    low: float
    high: float
    runs: int


class Profile(NamedTuple):
    """What a network costs: `flops` are multiply-adds of one input; latency in ms and memory in
    bytes by the size of the batch."""

    params: int
    flops: int
    latency: dict[int, Latency]
    memory: dict[int, int]
    device: str
    threads: int


def profile(
    model: nn.Module, example: Any, batches: Sequence[int] = (1, 32), threads: int = 1
) -> Profile:
    """All of it, where the model lies. example: a batch of inputs, a tensor or a tree of them,
    of which the first is taken."""
    inputs = {batch: repeated(example, batch) for batch in batches}
    return Profile(
        params=sum(p.numel() for p in model.parameters()),
        flops=multiply_adds(model, repeated(example, 1)),
        latency={batch: latency(model, x, threads) for batch, x in inputs.items()},
        memory={batch: peak_memory(model, x) for batch, x in inputs.items()},
        device=device_name(device_of(model)),
        threads=threads,
    )


def repeated(example: Any, batch: int) -> Any:
    """(b, ...) -> (batch, ...), of a tensor or a tree of them: the first input, so often."""
    return tree_map(lambda x: torch.cat([x[:1]] * batch), example)


def latency(model: nn.Module, x: Any, threads: int = 1) -> Latency:
    """How long a forward pass takes on a batch x, where the model lies, after a warm-up.

    By the clock on a CPU, of which so many threads are used, and by CUDA's events on a GPU.
    """
    times: list[float] = []
    with fixed_threads(threads), inferring(model):
        x = to(x, device_of(model))
        measure = _by_events if device_of(model).type == "cuda" else _by_clock
        for _ in range(WARM_UP):
            call(model, x)
        while len(times) < FEWEST or (len(times) < MOST and sum(times) < 1000 * SECONDS):
            times.append(measure(lambda: call(model, x)))
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75)).tolist()
    return Latency(median, low, high, len(times))


def _by_clock(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def _by_events(run: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def peak_memory(model: nn.Module, x: Any) -> int:
    """The most bytes that a forward pass on a batch x needs at a time, weights and x included.

    On a GPU what CUDA's allocator says. On a CPU the tensors that live: what a kernel needs for
    itself, such as the unfolded images of a convolution, is not seen there.
    """
    device = device_of(model)
    x = to(x, device)
    own = [*model.parameters(), *model.buffers(), x]
    with inferring(model):
        if device.type == "cuda":
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            call(model, x)
            more = torch.cuda.max_memory_allocated(device) - before
            return more + sum(leaf.nbytes for leaf in tree_leaves(own))
        with Living(own) as living:
            call(model, x)
    return living.peak


def multiply_adds(model: nn.Module, x: Any) -> int:
    """Of a forward pass on a batch x, by torch's own formulas."""
    training = model.training
    with torch.enable_grad(), Counter() as counter:  # type: ignore[no-untyped-call]
        call(model.eval(), to(x, device_of(model)))
    model.train(training)
    return counter.flops // 2


@contextmanager
def inferring(model: nn.Module) -> Iterator[None]:
    """In evaluation, without gradients; afterwards as it was."""
    training = model.training
    model.eval()
    with torch.inference_mode():
        yield
    model.train(training)


def device_of(model: nn.Module) -> torch.device:
    """Where a model lies; on the CPU, if it has no weights."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def device_name(device: torch.device) -> str:
    """For people: the GPU's, or the kind of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what runs meanwhile by torch's own formulas, two for a multiply-add.

    With gradients enabled: without, torch takes shortcuts, which are not counted.
    """

    flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # it would import the compiler, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=output)
        return output


class Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of the tensors that live, some from before and those that are computed
    meanwhile; `peak` is the most there were. Views of one storage count once."""

    def __init__(self, tensors: Sequence[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages: Any = WeakIdKeyDictionary()  # {storage: its bytes}
        self.peak = 0
        self._add(tensors)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def _add(self, tree: Any) -> None:
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self.storages[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self.storages.values()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self._add(output)
        return output
