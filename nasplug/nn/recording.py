"""A step's forward and backward pass as one CUDA graph, while the choices that it mixes stay.

A step of a small supernet is thousands of kernels of some microseconds each, and launching them one
by one takes longer than running them. Recorded once and replayed, on an H200 with torch 2.11 a step
that mixes all choices of nb201 (N=5, batch 64) takes 47 ms instead of 271 at C=16 and 32x32, 29
instead of 261 at C=8 and 16x16; one in subspaces of twelve choices, another every 30 steps, 32
instead of 123 (C=16). Losses are the same to the last bit (benchmarks/recorded_steps.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

EAGER = 1  # calls in a row with one key before it is recorded: kernels are chosen and loaded then
LAYERS = "activation batchnorm container conv flatten linear loss normalization padding pooling"
REPEATS = ("nasplug.", "torch.nn.functional", *(f"torch.nn.modules.{x}" for x in LAYERS.split()))

Outputs = list[Tensor | None]
Compute = Callable[..., Outputs]


def repeats(parts: Iterable[Any]) -> bool:
    """Whether modules and functions launch the same kernels in every step, and draw nothing: those
    of others may do what they like in Python, which a recording would not see."""
    return all(getattr(part, "__module__", "").startswith(REPEATS) for part in parts)


class Recording:
    """``compute(*inputs)``, tensors of tensors; with the same key again and again, what was
    recorded of it, on the inputs' values. The next call overwrites what is returned.

    key: all that the computation depends on beside the values of tensors. pool: torch's handle of
    the memory that what is recorded takes; replayed in turn, several may share it.
    """

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.key: Any = None
        self.calls = 0  # in a row with this key
        # What was recorded stays until the next is, or torch takes the pool back from under it.
        self.replay: Callable[[], None]
        self.inputs: list[Tensor]
        self.outputs: Outputs

    def __call__(self, key: Any, compute: Compute, inputs: Sequence[Tensor]) -> Outputs:
        self.calls = self.calls + 1 if key == self.key else 1
        self.key = key
        if self.calls <= EAGER:
            return compute(*inputs)
        if self.calls == EAGER + 1:
            copies = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
            self.replay, self.outputs = record(compute, copies, self.pool)
            self.inputs = copies
        with torch.no_grad():
            for copy, x in zip(self.inputs, inputs, strict=True):
                copy.copy_(x)
        self.replay()
        return self.outputs


def record(
    compute: Compute, inputs: Sequence[Tensor], pool: Any
) -> tuple[Callable[[], None], Outputs]:
    """A CUDA graph of ``compute(*inputs)``: what runs it, and where its results will be."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        outputs = compute(*inputs)
    return graph.replay, outputs
