"""The supernet of an elastic space: the network itself, of which a path takes a part."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs
from nasplug.nn.mixed import Bools
from nasplug.nn.supernet import Supernet, one_choice_costs

if TYPE_CHECKING:
    from nasplug.spaces.elastic.space import Elastic


def supernet(space: Elastic, partial: int) -> ElasticSupernet:
    if partial > 1:
        raise NasplugError(
            f"layers of {space.base} take all channels that they have, not 1/{partial} of them: "
            "take a method without partial channels"
        )
    return ElasticSupernet(space)


class ElasticSupernet(Supernet):
    """A network of which a path takes the most important channels and the first blocks.

    Widths and depths share weights, so that they are chosen, and not mixed.
    """

    space: Elastic

    def __init__(self, space: Elastic) -> None:
        costs, fixed = one_choice_costs(space, np.zeros(space.d, space.dtype))
        names = {name: tuple(map(str, options)) for name, options in space.decisions.items()}
        super().__init__(space, deepcopy(space.model), names, costs, fixed)
        self.mix(None, self.chosen(space.original[None])[0])

    @property
    def mixable(self) -> Bools:
        return self.exists & (self.exists.sum(1, keepdims=True) == 1)

    def mix(self, weights: Tensor | None, mask: Bools, gates: Tensor | None = None) -> None:
        arch = mask.argmax(1)
        self.widths, dropped = self.space.taken(arch)
        self.space.cuts.resize(self.network, self.widths)
        learned = weights is not None and weights.requires_grad
        self.weights = [*weights[range(len(arch)), arch]] if weights is not None and learned else []
        for block, decision in self.space.removable.items():
            module = self.network.get_submodule(block)
            vars(module).pop("forward", None)
            if block in dropped:
                vars(module)["forward"] = unchanged
            elif self.weights:
                vars(module)["forward"] = weighed(module.forward, self.weights[decision])

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        cuts, found = self.space.cuts, {}
        for name, x in self.network.state_dict(keep_vars=True).items():
            if name in cuts.axes:
                found[name] = cuts.sliced(name, x, self.widths)
        for name, decision in self.space.made_by.items() if self.weights else ():
            if name in found:
                found[name] = self.weights[decision] * found[name]
        return torch.func.functional_call(self.network, found, inputs, keywords)

    def inherit(self, arch: Archs) -> nn.Module:
        """The network of an arch, as `Elastic.build` builds it, with the weights learned here."""
        self.mix(None, self.chosen(arch[None])[0])
        return self.space.cuts.shrink(deepcopy(self.network), *self.space.taken(arch))


def unchanged(x: Any) -> Any:
    """What a block that is left out gives."""
    return x


def weighed(block: Callable[[Any], Any], weight: Tensor) -> Callable[[Any], Any]:
    """A residual block whose branch has a weight, which is 1, but has a gradient."""
    return lambda x: x + weight * (block(x) - x)
