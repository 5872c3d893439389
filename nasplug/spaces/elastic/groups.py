"""Which channels of a network belong together, and which blocks may be left out.

torch-pruning follows the layers: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR
2023.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from math import lcm
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nasplug.errors import NasplugError, lacking

try:
    import torch_pruning
    from torch_pruning.ops import OPTYPE
except ImportError as error:
    raise lacking("elastic", error) from None

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

WIDTHS = (25, 50, 75, 100)  # percent of the channels
ROOTS = (nn.modules.conv._ConvNd, nn.Linear)  # layers that make channels
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Part(NamedTuple):
    """The channels of a layer that go with those of a group.

    prune: torch-pruning's function that leaves some of them out. roots: (channels,) with which
    channel of the group each goes, -1 for none.
    """

    layer: str
    prune: Callable[[nn.Module, list[int]], nn.Module]
    roots: Ints


class Axis(NamedTuple):
    """A dimension of a weight or buffer that goes with a group; roots as those of a `Part`."""

    tensor: str
    dim: int
    roots: Ints


@dataclass(frozen=True)
class Group:
    """Channels that can only be left out together, such as those that are added up.

    makers: the layers that they come from, in order. kept: (widths, n), which of its n channels
    each width has: the most important ones.
    """

    makers: tuple[str, ...]
    parts: tuple[Part, ...]
    axes: tuple[Axis, ...]
    kept: Bools

    @property
    def layers(self) -> set[str]:
        return {part.layer for part in self.parts} | {
            axis.tensor.rpartition(".")[0] for axis in self.axes
        }


class Stage(NamedTuple):
    """Residual blocks one after the other, of which the last may be left out.

    least: how many there are at least; removable: those that can go, in order.
    """

    name: str
    least: int
    most: int
    removable: tuple[str, ...]

    def dropped(self, depth: int) -> tuple[str, ...]:
        return self.removable[len(self.removable) - (self.most - depth) :]


def find(model: nn.Module, example: Tensor) -> tuple[list[Group], list[Stage], dict[str, str]]:
    """The groups of channels, the stages, and {layer: why its channels cannot be varied}."""
    graph = trace(model, example)
    modules = dict(model.named_modules())
    order = {name: i for i, name in enumerate(modules)}
    shared = shared_weights(model)
    blocks = whole_blocks(model, example)
    groups: list[Group] = []
    fixed: dict[str, str] = {}
    stages: dict[tuple[str, str], list[tuple[str, bool]]] = {}
    for found in graph.get_all_groups(root_module_types=ROOTS):
        makers, takers = ends(graph, found)
        makers.sort(key=order.__getitem__)
        for block, removable in residual(blocks, makers, takers):
            stages.setdefault((block.rpartition(".")[0], makers[0]), []).append((block, removable))
        try:
            parts, parameters = read(graph, found)
            if tied := sorted({part.layer for part in parts} & set(shared)):
                raise NasplugError(f"{tied[0]} shares a weight with {shared[tied[0]]}")
            kept = ranked(graph, found, modules, parts)
            axes = [axis for part in parts for axis in axes_of(modules[part.layer], part, kept)]
            groups.append(Group(tuple(makers), tuple(parts), (*axes, *parameters), kept))
        except NasplugError as error:
            fixed |= dict.fromkeys(makers, str(error))
        except Exception as error:  # of torch-pruning, about layers that it does not expect
            fixed |= dict.fromkeys(makers, first_line(error))
    traced = {name for group in groups for name in group.makers} | set(fixed)
    for name, module in modules.items():
        if isinstance(module, ROOTS) and name not in traced and not depthwise(module):
            fixed[name] = "its output is not followed to that of the network"
    groups.sort(key=lambda group: order[group.makers[0]])
    return groups, list(staged(stages, order)), fixed


def trace(model: nn.Module, example: Tensor) -> Any:
    """torch-pruning's graph; NasplugError if it cannot follow the network."""
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph()
            return graph.build_dependency(model, [example], verbose=False)
    except Exception as error:
        raise NasplugError(
            f"the layers of {type(model).__name__} cannot be followed: {first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


def depthwise(module: nn.Module) -> bool:
    return getattr(module, "groups", 1) == getattr(module, "out_channels", 0) > 1


def shared_weights(model: nn.Module) -> dict[str, str]:
    """{layer: another layer that has a weight of it}."""
    owners: dict[Tensor, list[str]] = {}
    for name, module in model.named_modules():
        for p in module.parameters(recurse=False):
            owners.setdefault(p, []).append(name)
    return {
        layer: next((other for other in names if other != layer), layer)
        for names in owners.values()
        if len(names) > 1
        for layer in names
    }


def ends(graph: Any, found: Any) -> tuple[list[str], list[str]]:
    """The layers that make the channels of a group of torch-pruning, and those that take them."""
    makers: list[str] = []
    takers: list[str] = []
    for dep, _ in found:
        module = dep.target.module
        if isinstance(module, ROOTS) and not depthwise(module):
            out = graph.is_out_channel_pruning_fn(dep.handler)
            (makers if out else takers).append(graph._module2name[module])
    return makers, takers


def read(graph: Any, found: Any) -> tuple[list[Part], list[Axis]]:
    """The parts of a group of torch-pruning, and its parameters that belong to no layer."""
    parts, parameters = [], []
    for item in found:
        node, module, prune = item.dep.target, item.dep.target.module, item.dep.handler
        if node.type == OPTYPE.PARAMETER:
            name, dim = graph._param_to_name[module], node.pruning_dim % module.ndim
            parameters.append(Axis(name, dim, roots_of(item, module.shape[dim], name)))
        elif (name := graph._module2name.get(module)) is not None:
            out, pruner = graph.is_out_channel_pruning_fn(prune), prune.__self__
            n = (pruner.get_out_channels if out else pruner.get_in_channels)(module)
            if n is not None:
                parts.append(Part(name, prune, roots_of(item, n, name)))
    return parts, parameters


def roots_of(item: Any, n: int, name: str) -> Ints:
    """(n,): the channel of the group that each of some channels goes with, -1 for none."""
    found = np.full(n, -1)
    for i, root in zip(item.idxs, item.root_idxs, strict=True):
        if root is None or not 0 <= i < n:
            raise NasplugError(f"which of its channels reach {name} is not known")
        found[i] = root
    return found


def ranked(graph: Any, found: Any, modules: dict[str, nn.Module], parts: list[Part]) -> Bools:
    """(widths, n): which channels are the most important ones, by the norm of their weights.

    Layers with groups, such as a grouped convolution, keep the same channels of each.
    """
    n = len(found[0].idxs)
    importance = torch_pruning.importance.GroupMagnitudeImportance(normalizer=None)(found)
    blocks = 1
    for part in parts:
        module = modules[part.layer]
        many = getattr(module, "num_heads", 1) if isinstance(module, nn.MultiheadAttention) else 1
        if not depthwise(module):
            many = max(many, getattr(module, "groups", 1), getattr(module, "num_groups", 1))
        if many > 1 and not np.array_equal(part.roots, np.arange(n)):
            raise NasplugError(f"they meet the groups of {part.layer} in another order")
        blocks = lcm(blocks, many)
    size = n // blocks
    if size * blocks != n or size < 2:
        raise NasplugError(f"there are {n} channels, in {blocks} groups that all have to stay")
    scores = importance.detach().double().numpy().reshape(blocks, size).sum(0)
    rank = np.empty(size, np.int64)
    rank[np.argsort(-scores, kind="stable")] = np.arange(size)
    counts = np.array([max(1, round(size * width / 100)) for width in WIDTHS])
    return np.tile(rank < counts[:, None], blocks)


def removed(part: Part, kept: Bools) -> list[int]:
    """The channels of a layer that go with those of a group that are not kept, (n,)."""
    return np.flatnonzero((part.roots >= 0) & ~kept[part.roots]).tolist()


def axes_of(layer: nn.Module, part: Part, kept: Bools) -> Iterator[Axis]:
    """The dimensions of its weights and buffers that a layer has fewer of with fewer channels."""
    whole, channels = layer.state_dict(), len(part.roots)
    try:
        small = pruned(layer, [(part, removed(part, kept[0]))]).state_dict()
    except Exception as error:
        raise NasplugError(f"{part.layer} cannot have fewer: {first_line(error)}") from error
    for name, x in whole.items():
        for dim, n in enumerate(x.shape):
            if small[name].shape[dim] == n:
                continue
            # Several times the channels, such as queries, keys and values; or those of one group.
            many = n // channels
            roots = np.tile(part.roots, many) if many else part.roots[:n]
            axis = Axis(".".join(filter(None, [part.layer, name])), dim, roots)
            if len(roots) != n or n - cut(axis, kept[0]).sum() != small[name].shape[dim]:
                raise NasplugError(f"how {name} of {part.layer} follows them is not known")
            yield axis


def cut(axis: Axis, kept: Bools) -> Bools:
    """(n,): which indices of a dimension go."""
    return np.asarray((axis.roots >= 0) & ~kept[axis.roots])


def pruned(layer: nn.Module, parts: Iterable[tuple[Part, list[int]]]) -> nn.Module:
    """A copy of a layer, without weights, in which some channels of some parts are left out."""
    together: dict[Any, set[int]] = {}
    for part, channels in parts:
        together.setdefault(part.prune, set()).update(channels)
    small = deepcopy(layer).to("meta")
    for prune, gone in together.items():
        if gone:
            prune(small, sorted(gone))
    return small


# ---- blocks


def units(model: nn.Module) -> set[str]:
    """Blocks: modules with layers in them, of a class that is repeated in one place."""
    found: dict[str, type] = {
        name: type(module)
        for name, module in model.named_modules()
        if name and not isinstance(module, CONTAINERS) and any(module.children())
    }
    places = [(name.rpartition(".")[0], kind) for name, kind in found.items()]
    repeated = {kind for (_, kind), n in Counter(places).items() if n > 1}
    return {name for name, kind in found.items() if kind in repeated}


def within(name: str, module: str) -> bool:
    return not module or f"{name}.".startswith(f"{module}.")


def unit_of(layers: Iterable[str], of: Iterable[str]) -> str:
    """The innermost of some blocks that layers are all in; "" for none."""
    return max((unit for unit in of if all(within(x, unit) for x in layers)), key=len, default="")


def whole_blocks(model: nn.Module, example: Tensor) -> dict[str, bool]:
    """{block: whether it is called once and returns a tensor of the shape that it takes}."""
    calls: dict[str, list[bool]] = {name: [] for name in units(model)}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, keywords: Any, output: Any) -> None:
            alike = len(inputs) == 1 and not keywords
            alike = alike and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
            calls[name].append(alike and inputs[0].shape == output.shape)

        return hook

    handles = [
        model.get_submodule(name).register_forward_hook(note(name), with_kwargs=True)
        for name in calls
    ]
    with torch.no_grad():
        model(example)
    for handle in handles:
        handle.remove()
    return {name: seen == [True] for name, seen in calls.items()}


def residual(
    blocks: dict[str, bool], makers: list[str], takers: list[str]
) -> Iterator[tuple[str, bool]]:
    """Blocks that make the channels of a group, and whether they may be left out: they take them
    as well, so that what they make is added to what they take."""
    for block, alike in blocks.items():
        if any(within(layer, block) for layer in makers):
            yield block, alike and any(within(layer, block) for layer in takers)


def staged(
    found: dict[tuple[str, str], list[tuple[str, bool]]], order: dict[str, int]
) -> Iterator[Stage]:
    """The stages that some blocks by parent and group make."""
    count: dict[str, int] = {}
    for (parent, _), blocks in sorted(found.items(), key=lambda one: order[one[1][0][0]]):
        blocks.sort(key=lambda one: order[one[0]])
        removable = [name for name, can in blocks if can]
        least = max(1, len(blocks) - len(removable))
        if least < len(blocks):
            count[parent] = i = count.get(parent, 0) + 1
            name = ".".join(filter(None, [parent, f"depth{i if i > 1 else ''}"]))
            yield Stage(name, least, len(blocks), tuple(removable))
