"""Elastic: what a network becomes with fewer channels and blocks, its weights inherited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs
from nasplug.nn.profile import Counter
from nasplug.spaces.cost import Cost, Costed
from nasplug.spaces.elastic.cuts import Costs, Cuts
from nasplug.spaces.elastic.groups import (
    WIDTHS,
    Bools,
    Group,
    Ints,
    Stage,
    find,
    first_line,
    unit_of,
    units,
)


class Elastic(Costed):
    """A space of the networks that a network of the user's own becomes with fewer channels and
    fewer blocks.

    model: the network, trained as a rule. example: a batch of inputs, on which its layers are
    followed and multiply-adds are counted.

    A decision is about a block, or a layer and those that go with it: which percentage of their
    channels they keep, the most important ones; or about the depth of a stage, of which the first
    blocks stay. `build` gives plain networks with the weights of the model.
    """

    own = True

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        check(model, example)
        self.base, self.example = type(model).__name__, example.detach().cpu()
        try:
            self.model = deepcopy(model).cpu()
        except Exception as error:
            raise NasplugError(f"{self.base} cannot be copied: {first_line(error)}") from error
        self._output = self._try_out()
        groups, stages, self.fixed = find(self._trainable(), self.example[:1])
        blocks = [block for stage in stages for block in stage.removable]
        self._costs = Costs(self.model, blocks, self._run)
        self.stages = [stage for stage in stages if self._shortens(stage)]
        for row in range(len(WIDTHS) - 1):
            groups = self._working(groups, row)
        self.groups = groups
        self.fixed = {
            name: self.fixed[name] for name, _ in self.model.named_modules() if name in self.fixed
        }
        self.cuts = Cuts(self.model, self.groups)
        self._rows = self._find_widths()
        decisions: dict[str, Sequence[Any]] = {
            name: [WIDTHS[row] for row in rows] for name, (_, rows) in self._rows.items()
        }
        decisions |= {stage.name: range(stage.least, stage.most + 1) for stage in self.stages}
        if not decisions:
            whys = "; ".join(f"{layer}: {why}" for layer, why in self.fixed.items())
            raise NasplugError(f"{self.base} has nothing that can be varied: {whys or 'no layers'}")
        super().__init__(decisions, self.base)

    # ---- what can be varied

    def _try_out(self) -> torch.Size:
        """The shape of the output; NasplugError if the network does not run, or its layers cannot
        be followed."""
        try:
            output = self._run(deepcopy(self.model))
        except Exception as error:
            raise NasplugError(
                f"{self.base} does not run on the example, of shape {tuple(self.example.shape)}: "
                f"{first_line(error)}"
            ) from error
        if not isinstance(output, Tensor):
            raise NasplugError(f"networks must give one tensor, got {type(output).__name__}")
        try:
            with torch.device("meta"):
                deepcopy(self.model).to("meta").eval()(self.example[:1].to("meta"))
        except Exception as error:
            raise NasplugError(
                f"{self.base} looks at the values of tensors while it runs, so that its layers "
                f"cannot be followed: {first_line(error)}"
            ) from error
        return output.shape

    def _run(self, model: nn.Module) -> Any:
        """What a network gives for one input."""
        with torch.enable_grad():  # without gradients torch takes shortcuts, uncounted
            return model.eval()(self.example[:1])

    def _trainable(self) -> nn.Module:
        """A copy whose layers can be followed by their gradients."""
        model = deepcopy(self.model).eval()
        for p in model.parameters():
            p.requires_grad_(p.is_floating_point())
        return model

    def _shortens(self, stage: Stage) -> bool:
        """Whether the network runs with the least depth of a stage; else it is noted why not."""
        if why := self._why_not([], [], stage.dropped(stage.least)):
            self.fixed |= dict.fromkeys(stage.removable, why)
        return not why

    def _working(self, groups: list[Group], row: int) -> list[Group]:
        """Those of some groups that the network runs with so much of, tried all at once and halved
        until it does; of the others it is noted why not."""
        why = self._why_not(groups, [row] * len(groups), ())
        if not why:
            return groups
        if len(groups) == 1:
            self.fixed |= dict.fromkeys(groups[0].makers, why)
            return []
        half = len(groups) // 2
        return self._working(groups[:half], row) + self._working(groups[half:], row)

    def _why_not(self, groups: list[Group], widths: list[int], dropped: Sequence[str]) -> str:
        """Why a network does not run, or its cost is not known; "" if all is well."""
        cuts = Cuts(self.model, groups)
        counter = Counter()  # type: ignore[no-untyped-call]
        try:
            model = cuts.shrink(deepcopy(self.model), widths, dropped)
            with counter:
                output = self._run(model)
        except Exception as error:
            return f"the network does not run with fewer: {first_line(error)}"
        if output.shape != self._output:
            return "the shape of the network's output would change"
        gone = np.isin(self._costs.blocks, dropped)[None]
        known = self._costs.of(cuts, np.array([widths], np.int64), gone)[:, 0]
        if known.tolist() != [sum(p.numel() for p in model.parameters()), counter.flops // 2]:
            return "what the network costs with fewer follows no rule that is known"
        return ""

    def _find_widths(self) -> dict[str, tuple[list[int], Ints]]:
        """{decision: (its groups, the row of `Group.kept` of each choice)}: the groups of a block
        are one decision, others each their own."""
        blocks = units(self.model)
        found: dict[str, list[int]] = {}
        for g, group in enumerate(self.groups):
            name = unit_of(group.layers, blocks) or group.makers[0]
            found.setdefault(name, []).append(g)
        rows = {}
        for name, several in found.items():
            counts = np.stack([self.groups[g].kept.sum(1) for g in several])
            last = np.append((counts[:, 1:] != counts[:, :-1]).any(0), True)
            rows[name] = several, np.flatnonzero(last)
        return {name: both for name, both in rows.items() if len(both[1]) > 1}

    # ---- archs

    @property
    def original(self) -> Archs:
        """(d,): the arch of the whole model."""
        return (self.cardinalities - 1).astype(self.dtype)

    def _widths(self, archs: Archs) -> Ints:
        """(n, d) -> (n, groups): rows of `Group.kept`."""
        found = np.full((len(archs), len(self.groups)), len(WIDTHS) - 1)
        for i, (several, rows) in enumerate(self._rows.values()):
            found[:, several] = rows[archs[:, i]][:, None]
        return found

    def _dropped(self, archs: Archs) -> Bools:
        """(n, d) -> (n, blocks): which are left out."""
        found = np.zeros((len(archs), len(self._costs.blocks)), bool)
        for i, stage in enumerate(self.stages, len(self._rows)):
            for choice in range(stage.most - stage.least):
                gone = np.isin(self._costs.blocks, stage.dropped(stage.least + choice))
                found |= (archs[:, i] == choice)[:, None] & gone
        return found

    def taken(self, arch: Archs) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """(d,) -> the rows of `Group.kept`, and the blocks that are left out."""
        gone = self._dropped(arch[None])[0].tolist()
        dropped = (block for block, out in zip(self._costs.blocks, gone, strict=True) if out)
        return tuple(self._widths(arch[None])[0].tolist()), tuple(dropped)

    @cached_property
    def removable(self) -> dict[str, int]:
        """{block that may be left out: its decision}."""
        stages = enumerate(self.stages, len(self._rows))
        return {block: i for i, stage in stages for block in stage.removable}

    @cached_property
    def made_by(self) -> dict[str, int]:
        """{weight that makes channels of a group, or scales them: its decision}."""
        rows = enumerate(self._rows.values())
        groups = [(i, self.groups[g]) for i, (several, _) in rows for g in several]
        return {axis.tensor: i for i, group in groups for axis in group.axes if axis.dim == 0}

    def canonical(self, archs: Archs) -> Archs:
        """(n, d) -> (n, d): the widths of a block that is left out are the first ones."""
        found, dropped = np.array(archs), self._dropped(np.asarray(archs))
        for i, (several, _) in enumerate(self._rows.values()):
            layers = [layer for g in several for layer in self.groups[g].layers]
            for gone, block in zip(dropped.T, self._costs.blocks, strict=True):
                if unit_of(layers, [block]):
                    found[gone, i] = 0
        return found

    def costs(self, archs: Archs) -> Cost:
        """(n, d) -> (2, n): parameters and multiply-adds of one input."""
        archs = np.asarray(archs)
        return self._costs.of(self.cuts, self._widths(archs), self._dropped(archs))

    # ---- networks

    def build(self, arch: npt.ArrayLike) -> nn.Module:
        """One arch -> its network, with the model's weights, in which nothing is of nasplug."""
        return self.cuts.shrink(deepcopy(self.model), *self.taken(self.arch(arch)))

    def supernet(self, region: Any = None, partial: int = 1) -> nn.Module:
        """All archs in one network, a `nasplug.nn.Supernet`, with the weights of the model."""
        module = import_module("nasplug.spaces.elastic.network")
        found: nn.Module = module.supernet(self, partial)
        return found

    def suited(self, example: Any, classes: int, dense: bool = False) -> Self:
        """Itself; NasplugError if its networks take other inputs, or tell too few classes apart."""
        wanted, given = tuple(self.example.shape[1:]), tuple(example.shape[1:])
        if wanted != given:
            raise NasplugError(f"{self.base} is for inputs of {wanted}, and the data have {given}")
        if len(self._output) != 2 or self._output[1] < classes:
            raise NasplugError(
                f"{self.base} has an output of {tuple(self._output[1:])} for each input, and the "
                f"data have {classes} classes: it must be a score for each"
            )
        return self

    def profile(self) -> Profile:
        """What the networks cost, what is varied, and what cannot be."""
        archs = np.stack(
            [np.zeros(self.d, self.dtype), (self.cardinalities - 1) // 2, self.original]
        )
        varied = {
            name: tuple(maker for g in several for maker in self.groups[g].makers)
            for name, (several, _) in self._rows.items()
        }
        varied |= {stage.name: stage.removable for stage in self.stages}
        return Profile(self.describe(), self.costs(archs), self.decisions, varied, self.fixed)


@dataclass(frozen=True)
class Profile:
    """What the networks of an elastic space cost, what is varied and what is not.

    costs: (2, 3) parameters and multiply-adds of the smallest, a middle and the whole network.
    varied: {decision: layers, or blocks that may be left out}. fixed: {layer: why}.
    """

    title: str
    costs: Cost
    decisions: Mapping[str, Sequence[Any]]
    varied: Mapping[str, Sequence[str]]
    fixed: Mapping[str, str]

    def __str__(self) -> str:
        lines = [self.title]
        for name, (params, flops) in zip(
            ("smallest", "middle", "whole"), self.costs.T, strict=True
        ):
            share = flops / self.costs[1, -1]
            lines.append(
                f"  {name:<9}{params:>15,} params {flops:>17,} multiply-adds  {share:.3g}x"
            )
        lines.append("varied")
        for name, layers in self.varied.items():
            choices = self.decisions[name]
            lines.append(f"  {name}: {', '.join(map(str, choices))}  ({', '.join(layers)})")
        lines += ["not varied", *(f"  {layer}: {why}" for layer, why in self.fixed.items())]
        return "\n".join(lines)


def check(model: Any, example: Any) -> None:
    """NasplugError unless they are a network whose layers may be followed, and a batch."""
    if not isinstance(model, nn.Module):
        raise NasplugError(
            f"elastic takes a network, a torch.nn.Module, got {model!r}; a class with choices "
            "marked in place goes to space_of"
        )
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise NasplugError(
            f"{name} is TorchScript, which cannot be followed: give the module itself"
        )
    if not (isinstance(example, Tensor) and example.ndim > 1):
        raise NasplugError(
            "example is one tensor, a batch of inputs such as torch.randn(2, 3, 32, 32); got "
            f"{type(example).__name__}"
        )
    kinds = ("parameter", model.named_parameters()), ("buffer", model.named_buffers())
    places = [(kind, one, x.device) for kind, tensors in kinds for one, x in tensors]
    for kind, one, device in places:
        if device != places[0][2]:
            raise NasplugError(
                f"{kind} {one} of {name} is on {device}, and {places[0][1]} on {places[0][2]}: "
                f"put all on one device, model.to({str(places[0][2])!r})"
            )
    if any(device.type == "meta" for _, _, device in places):
        raise NasplugError(f"{name} has no weights: it is on the device meta")


def elastic(model: nn.Module, example: Tensor) -> Elastic:
    """The space of what a network of your own becomes with fewer channels and blocks.

    model: a network, with the weights that smaller ones inherit. example: a batch of inputs.
    """
    return Elastic(model, example)
