"""Blocks that share weights: each is a slice of the largest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nasplug.nn.choices import sliced
from nasplug.nn.mixed import MixedOp, Zero, batch_statistics


class Sliced(nn.Module):
    r"""Blocks of several kernels and expansions in the weights of the largest.

    Of channels a smaller one has the first; of a kernel the centre, through a learned matrix for
    each size that all channels share (Cai et al., Once-for-All, ICLR 2020, section 3.3):

    .. math:: w_5 = M_5\, c_5(w_7), \qquad w_3 = M_3\, c_3(w_5)

    where c_k takes the centre of k x k, and the matrices are the identity at first.

    make: (kernel, expansion) -> a block; names and dimensions of weights are alike in all of them.
    """

    def __init__(
        self,
        make: Callable[[int, int], nn.Module],
        kernels: Sequence[int],
        expansions: Sequence[int],
    ) -> None:
        super().__init__()
        self.make = make
        self.largest = make(max(kernels), max(expansions))
        self.smaller = sorted(kernels, reverse=True)[1:]
        self.matrices = nn.ParameterDict({str(k): torch.eye(k**2) for k in self.smaller})
        self.blocks: dict[tuple[int, int], nn.Module] = {}  # without weights

    def block(self, kernel: int, expansion: int) -> nn.Module:
        """A block without weights."""
        if (kernel, expansion) not in self.blocks:
            with torch.device("meta"):
                self.blocks[kernel, expansion] = batch_statistics(self.make(kernel, expansion))
        return self.blocks[kernel, expansion].train(self.training)

    def weights(self, kernel: int, expansion: int) -> dict[str, Tensor]:
        """{name: weight of the block}."""
        whole = self.largest.state_dict(keep_vars=True)
        wanted = self.block(kernel, expansion).state_dict()
        return {name: self._cut(whole[name], x.shape) for name, x in wanted.items()}

    def _cut(self, x: Tensor, shape: torch.Size) -> Tensor:
        if x.ndim < 4:
            return sliced(x, shape)
        x = sliced(x, (*shape[:2], *x.shape[2:]))
        for k in self.smaller:
            if shape[-1] <= k < x.shape[-1]:
                center = sliced(x, (*shape[:2], k, k))
                x = (center.flatten(2) @ self.matrices[str(k)].T).view_as(center)
        return x

    def forward(self, x: Tensor, kernel: int, expansion: int) -> Any:
        weights = self.weights(kernel, expansion)
        return torch.func.functional_call(self.block(kernel, expansion), weights, (x,))


class Slice(nn.Module):
    """One of the blocks of a `Sliced`, which holds the weights."""

    def __init__(self, whole: Sliced, kernel: int, expansion: int) -> None:
        super().__init__()
        self.whole = (whole,)  # in a tuple, so that its weights are not counted here too
        self.kernel, self.expansion = kernel, expansion

    def weights(self) -> dict[str, Tensor]:
        return self.whole[0].weights(self.kernel, self.expansion)

    def forward(self, x: Tensor) -> Any:
        return self.whole[0](x, self.kernel, self.expansion)


class SlicedOp(MixedOp):
    """A mixed operation whose candidates are the blocks of a `Sliced`, after a `Zero` where there
    may be none.

    options: (kernel, expansion) of each block.
    """

    def __init__(
        self, whole: Sliced, options: Sequence[tuple[int, int]], decision: int, optional: bool
    ) -> None:
        slices = [Slice(whole, *option) for option in options]
        super().__init__([*([Zero()] if optional else []), *slices], decision)
        self.sliced = whole
