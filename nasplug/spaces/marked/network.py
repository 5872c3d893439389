"""The supernet of a marked network: its constructor, run once with all options."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs
from nasplug.nn.choices import Options, Sharing, taken_weights
from nasplug.nn.mixed import Bools, Zero, batch_statistics
from nasplug.nn.supernet import Supernet
from nasplug.nn.task import call, rows_of, to
from nasplug.nn.training import initialise
from nasplug.spaces.marked.space import Marked


def supernet(space: Marked, partial: int) -> MarkedSupernet:
    if partial > 1:
        raise NasplugError(
            f"the options of {space.base} take all channels, not 1/{partial} of them: take a "
            "method without partial channels"
        )
    return MarkedSupernet(space)


class MarkedSupernet(Supernet):
    """A network with all options of each choice.

    Choices among modules may be mixed, where the outputs have one shape; those among values and
    depths can only be chosen: they share weights, of which each path takes a slice.
    """

    space: Marked

    def __init__(self, space: Marked) -> None:
        sharing = Sharing(space.names, space.only)
        try:
            network = space.construct(sharing)
        except Exception as error:
            said = error if isinstance(error, NasplugError) else f"{type(error).__name__}: {error}"
            raise NasplugError(f"{space.base} has no supernet: {said}") from error
        costs = np.zeros((space.d, int(space.cardinalities.max())))
        for row, archs in zip(costs, space.alternatives, strict=True):
            flops = np.array([space.measure(arch).flops for arch in archs])
            row[: len(archs)] = flops - flops[0]
        fixed = space.measure(np.zeros(space.d, space.dtype)).flops
        names = {name: tuple(map(str, options)) for name, options in space.decisions.items()}
        super().__init__(space, network, names, costs, fixed)
        self.path = sharing.path
        self.path.building = False

    def mix(self, weights: Tensor | None, mask: Bools, gates: Tensor | None = None) -> None:
        super().mix(weights, mask, gates)
        options = mask.argmax(1).tolist()
        self.path.index = dict(zip(self.decisions, options, strict=True))
        self.path.weights = {}
        if weights is not None and weights.requires_grad:
            rows = zip(self.decisions, weights.unbind(), options, strict=True)
            self.path.weights = {name: row[i] for name, row, i in rows}

    def inherit(self, arch: Archs) -> nn.Module:
        """The network of an arch, as `Marked.build` builds it, with the weights learned here."""
        self.mix(None, self.chosen(arch[None])[0])
        weights = taken_weights(self.network)
        model = batch_statistics(initialise(lambda: self.space.build(arch), 0))
        model.load_state_dict(weights)
        return model.to(next(iter(weights.values())).device) if weights else model

    # ---- the choices

    def _of_all(self, test: Callable[[nn.Module], bool]) -> Bools:
        """(D, O): the options among modules that are so wherever they stand."""
        found = np.zeros(self.exists.shape, bool)
        for decision, several in self._options.items():
            for k in range(len(self.choices[decision])):
                found[decision, k] = all(test(options.ops[k]) for options in several)
        return found

    @cached_property
    def _options(self) -> dict[int, list[Options]]:
        """{decision: the choices among modules that it is about}."""
        found: dict[int, list[Options]] = {}
        for module in self.network.modules():
            if isinstance(module, Options):
                found.setdefault(module.decision, []).append(module)
        return found

    @property
    def idle(self) -> Bools:
        return super().idle | self._of_all(lambda op: isinstance(op, nn.Identity | Zero))

    @property
    def cut(self) -> Bools:
        return self._of_all(lambda op: isinstance(op, Zero))

    @property
    def mixable(self) -> Bools:
        return self._mixable

    @cached_property
    def _mixable(self) -> Bools:
        """Whose outputs are tensors of one shape, seen on the example."""
        found = self.exists
        for i, archs in enumerate(self.space.alternatives):
            shapes = [self._shapes(i, arch) for arch in archs] if i in self._options else [None]
            if None in shapes or shapes != shapes[:1] * len(shapes):
                found[i] &= len(archs) == 1
        return found

    @torch.no_grad()
    def _shapes(self, decision: int, arch: Archs) -> list[torch.Size] | None:
        """Of the outputs of a decision on an arch; None if one is no tensor."""
        outputs: list[Any] = []
        handles = [
            options.register_forward_hook(lambda module, inputs, output: outputs.append(output))
            for options in self._options[decision]
        ]
        self.mix(None, self.chosen(arch[None])[0])
        training = self.training
        assert self.space.example is not None
        x = rows_of(self.space.example, slice(2))
        call(self.eval(), to(x, next(self.parameters()).device))
        self.train(training)
        for handle in handles:
            handle.remove()
        if not all(isinstance(output, Tensor) for output in outputs):
            return None
        return [output.shape for output in outputs]
