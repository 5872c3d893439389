"""A network with fewer channels and blocks, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nasplug.nn.mixed import Bools
from nasplug.nn.profile import Counter
from nasplug.spaces.cost import Cost
from nasplug.spaces.elastic.groups import (
    Axis,
    Group,
    Ints,
    Part,
    cut,
    pruned,
    removed,
    within,
)

Widths = Sequence[int]  # for each group, which row of `Group.kept` it has


class Cuts:
    """What of a network's layers and weights goes with the widths of some groups."""

    def __init__(self, model: nn.Module, groups: Sequence[Group]) -> None:
        self.model, self.groups = model, groups
        self.axes: dict[str, list[tuple[int, Axis]]] = {}
        self.parts: dict[str, list[tuple[int, Part]]] = {}
        for g, group in enumerate(groups):
            for axis in group.axes:
                self.axes.setdefault(axis.tensor, []).append((g, axis))
            for part in group.parts:
                self.parts.setdefault(part.layer, []).append((g, part))
        # {weight: (dimension, group, by how much it is shorter for each width)}
        self.lost = {
            tensor: [
                (axis.dim, g, np.array([cut(axis, kept).sum() for kept in groups[g].kept]))
                for g, axis in axes
            ]
            for tensor, axes in self.axes.items()
        }
        self._attributes: dict[Any, dict[str, Any]] = {}
        self._kept: dict[Any, list[tuple[int, Tensor]]] = {}

    def attributes(self, layer: str, widths: Widths) -> dict[str, Any]:
        """What a layer says of its size, such as ``out_channels``."""
        key = layer, *(widths[g] for g, _ in self.parts[layer])
        if key not in self._attributes:
            parts = [
                (part, removed(part, self.groups[g].kept[widths[g]]))
                for g, part in self.parts[layer]
            ]
            small = vars(pruned(self.model.get_submodule(layer), parts))
            self._attributes[key] = {
                name: value
                for name, value in small.items()
                if not name.startswith("_") and isinstance(value, int | tuple)
            }
        return self._attributes[key]

    def sliced(self, tensor: str, x: Tensor, widths: Widths) -> Tensor:
        """What is left of a weight."""
        key = tensor, x.device, *(widths[g] for g, _ in self.axes[tensor])
        if key not in self._kept:
            gone: dict[int, Bools] = {}
            for g, axis in self.axes[tensor]:
                lost = cut(axis, self.groups[g].kept[widths[g]])
                gone[axis.dim] = gone.get(axis.dim, np.zeros_like(lost)) | lost
            left = {dim: torch.from_numpy(np.flatnonzero(~lost)) for dim, lost in gone.items()}
            self._kept[key] = [
                (dim, i.to(x.device)) for dim, i in left.items() if len(i) < x.shape[dim]
            ]
        for dim, index in self._kept[key]:
            x = x.index_select(dim, index)
        return x

    def resize(self, model: nn.Module, widths: Widths) -> None:
        """Let the layers of a network, in place, say that they have so many channels."""
        for layer in self.parts:
            vars(model.get_submodule(layer)).update(self.attributes(layer, widths))

    def shrink(self, model: nn.Module, widths: Widths, dropped: Iterable[str]) -> nn.Module:
        """The same network, in place, with fewer channels and without some blocks."""
        self.resize(model, widths)
        whole = model.state_dict(keep_vars=True)
        for tensor in self.axes.keys() & whole.keys():
            owner, _, name = tensor.rpartition(".")
            module, x = model.get_submodule(owner), whole[tensor]
            small = self.sliced(tensor, x.detach(), widths).clone()
            parameter = isinstance(x, nn.Parameter)
            setattr(module, name, nn.Parameter(small, x.requires_grad) if parameter else small)
        for block in dropped:
            owner, _, name = block.rpartition(".")
            setattr(model.get_submodule(owner), name, nn.Identity())
        return model


class Costs:
    """Parameters and multiply-adds of a network with fewer channels and blocks, in closed form:
    each number of a weight takes part in as many multiply-adds as before.

    blocks: that may be left out. run: runs a network on one input.
    """

    def __init__(
        self, model: nn.Module, blocks: Sequence[str], run: Callable[[nn.Module], Any]
    ) -> None:
        self.blocks = blocks
        copy = deepcopy(model)
        counter = Attributed(copy, blocks)
        with counter:
            run(copy)
        self.weights: list[tuple[str, tuple[int, ...], int]] = []  # name, shape, multiply-adds each
        self.rest = counter.rest
        for name, p in model.named_parameters():
            each = counter.weights.get(name, 0) // max(1, p.numel())
            self.weights.append((name, tuple(p.shape), each))
        # Of weights and blocks: the numbers of the blocks that they are in.
        self.inside = {
            name: tuple(i for i, block in enumerate(blocks) if within(name, block))
            for name in (*(name for name, *_ in self.weights), *self.rest)
        }

    def of(self, cuts: Cuts, widths: Ints, dropped: Bools) -> Cost:
        """(n, groups) widths, (n, blocks) whether a block is left out -> (2, n)."""
        total = np.zeros((2, len(widths)), np.int64)
        there = {inside: ~dropped[:, inside].any(1) for inside in set(self.inside.values())}
        for name, shape, each in self.weights:
            dims: list[Any] = [*shape]
            for dim, g, lost in cuts.lost.get(name, ()):
                dims[dim] = dims[dim] - lost[widths[:, g]]
            size = there[self.inside[name]].astype(np.int64)
            for n in dims:
                size *= n
            total += np.stack([size, each * size])
        for block, more in self.rest.items():
            total[1] += more * there[self.inside[block]]
        return total


class Attributed(Counter):
    """Counts the multiply-adds that weights take part in, and what else is in each block."""

    def __init__(self, model: nn.Module, blocks: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = {p.untyped_storage()._cdata: name for name, p in model.named_parameters()}
        self.weights: dict[str, int] = {}
        self.rest: dict[str, int] = {}  # "" is outside of the blocks
        self.inside = [""]
        for block in blocks:
            module = model.get_submodule(block)
            module.register_forward_pre_hook(lambda *_, block=block: self.inside.append(block))
            module.register_forward_hook(lambda *_: self.inside.pop() and None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.flops
        output = super().__torch_dispatch__(func, types, args, kwargs)
        if self.flops > before:
            tensors = [x for x in args if isinstance(x, Tensor) and x.ndim > 1]  # no bias
            names = [self.names.get(x.untyped_storage()._cdata) for x in tensors]
            weights = [(self.weights, name) for name in names if name]
            found, name = weights[0] if weights else (self.rest, self.inside[-1])
            found[name] = found.get(name, 0) + (self.flops - before) // 2
        return output
