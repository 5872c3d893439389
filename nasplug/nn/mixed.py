"""Mixed operations under a mask: what supernets are made of, and how paths are drawn in them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from nasplug.errors import NasplugError

Bools = npt.NDArray[np.bool_]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Op(nn.Sequential):
    """Layers that end in a batch norm, which may take a scale: scale * op(x) in no extra pass."""

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        *layers, norm = self
        assert isinstance(norm, nn.BatchNorm2d)
        for layer in layers:
            x = layer(x)
        if scale is None:
            return norm(x)
        # A copy, not a view of one number: a channels-last batch norm reads it as an array.
        weight = scale.repeat(x.shape[1]) if norm.weight is None else scale * norm.weight
        bias = None if norm.bias is None else scale * norm.bias
        batch = norm.training or norm.running_mean is None
        mean, variance = norm.running_mean, norm.running_var
        return functional.batch_norm(x, mean, variance, weight, bias, batch, eps=norm.eps)


class Shared(nn.Module):
    """A layer without parameters, computed once for a tensor that many operations take.

    A node's ReLU and pools serve all its edges; their outputs are kept on the tensor itself, until
    the cell that it is a node of calls `forget`.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.key = layer, repr(layer)

    def forward(self, x: Tensor) -> Tensor:
        shared = x.__dict__.setdefault("shared", {})
        if self.key not in shared:
            shared[self.key] = self.layer(x)
        return shared[self.key]


def forget(nodes: Sequence[Tensor]) -> None:
    """Drop what `Shared` layers keep on tensors.

    The graph of a pool holds the tensor that was pooled, which holds the pool's output: neither
    would ever be freed where no gradient goes through the pool.
    """
    for x in nodes:
        x.__dict__.pop("shared", None)


class Zero(nn.Module):
    """An operation that is not there: zeros of the shape that it would have."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x if self.stride == 1 else x[..., :: self.stride, :: self.stride])


class MixedOp(nn.Module):
    r"""Several candidate operations where a network takes one.

    .. math:: \bar o(x) = \sum_{k \in Z} w_k\, o_k(x)

    `mix` sets the weights w and the mask Z of every mixed operation in a network. What is not
    in Z does not run, takes no memory and gets no gradient; `Zero` never runs.

    ops: the candidates. decision: which row of the weights and of the mask is this one's; many
    may share a row. partial: only the first 1/partial of the channels go through the
    operations, which are made for as many; the others are passed on, and the channels shuffled
    (Xu et al., PC-DARTS, ICLR 2020). stride: by which all of the operations shrink an image.
    """

    def __init__(
        self, ops: Sequence[nn.Module], decision: int, partial: int = 1, stride: int = 1
    ) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops)
        self.decision, self.partial, self.stride = decision, partial, stride
        self.terms: list[tuple[nn.Module, Tensor | None]] = []
        self.gate: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        mixed = shuffle(self._pass_on(x), self.partial) if self.partial > 1 else self._sum(x)
        return mixed if self.gate is None else self.gate * mixed

    def _sum(self, x: Tensor) -> Tensor:
        if not self.terms:
            return Zero(self.stride)(x)
        return reduce(torch.add, [scaled(op, x, weight) for op, weight in self.terms])

    def _pass_on(self, x: Tensor) -> Tensor:
        c = x.shape[1] // self.partial
        rest = x[:, c:] if self.stride == 1 else functional.max_pool2d(x[:, c:], self.stride)
        return torch.cat([self._sum(x[:, :c]), rest], dim=1)


def scaled(op: nn.Module, x: Tensor, weight: Tensor | None) -> Tensor:
    """weight * op(x); no weight is a weight of 1."""
    if weight is None:
        return op(x)
    return op(x, weight) if isinstance(op, Op) else weight * op(x)


def shuffle(x: Tensor, groups: int) -> Tensor:
    """(b, c, h, w) -> the same, channels taken in turn from each of the groups."""
    b, c, h, w = x.shape
    return x.reshape(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def check_partial(channels: int, partial: int) -> None:
    """NasplugError unless the channels can be divided into so many parts."""
    if channels % partial:
        raise NasplugError(f"C={channels} channels do not divide into {partial} parts")


def mixed_ops(net: nn.Module) -> list[MixedOp]:
    return [module for module in net.modules() if isinstance(module, MixedOp)]


def mix(net: nn.Module, weights: Tensor | None, mask: Bools, gates: Tensor | None = None) -> None:
    """Set what the mixed operations of `net` do from now on.

    weights: (D, O), a row per decision; None for weights of 1. mask: (D, O), which operations
    take part. gates: (D,), what the outputs are multiplied by (edge normalisation).
    """
    O = mask.shape[1]  # noqa: E741
    flat = None if weights is None else weights.flatten().unbind()
    gate = None if gates is None else gates.unbind()
    active = [np.flatnonzero(row).tolist() for row in mask]
    for op in mixed_ops(net):
        d = op.decision
        op.terms = [
            (op.ops[k], None if flat is None else flat[d * O + k])
            for k in active[d]
            if not isinstance(op.ops[k], Zero)
        ]
        op.gate = None if gate is None else gate[d]


def batch_statistics(net: nn.Module) -> nn.Module:
    """Let every batch norm use its batch's statistics, always: those of a path in a supernet
    depend on what else was in the mask."""
    for norm in net.modules():
        if isinstance(norm, BATCH_NORMS):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    return net


def inherit(net: nn.Module, mask: Bools) -> nn.Module:
    """A copy of `net`, weights and all, in which every mixed operation is the one in the mask.

    mask: (D, O), at most one operation per row. The copy computes what the supernet computes
    under that mask and knows nothing of mixed operations. Its batch norms use the statistics
    of the batch until `nasplug.nn.training.recalibrate` has gathered lasting ones.
    """
    mix(net, None, mask)
    return unmixed(net)


def unmixed(net: nn.Module) -> nn.Module:
    """A copy of `net` in which every mixed operation is the one that it is set to."""
    copy = deepcopy(net)
    for parent in list(copy.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MixedOp) and child.partial == 1:
                setattr(parent, name, child.terms[0][0] if child.terms else Zero(child.stride))
    return copy


# ---- which path: weights and masks for `mix`


def draw_paths(logits: Tensor, generator: torch.Generator) -> Bools:
    """(D, O) logits -> (D, O): one operation per row, drawn by their softmax."""
    drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)
    return one_hot(drawn[:, 0], logits.shape[1]).bool().numpy()


def edge_gates(logits: Tensor, incoming: Sequence[Sequence[int]]) -> Tensor:
    """(D,) logits -> (D,): their softmax over the edges that enter the same node (PC-DARTS)."""
    node = torch.zeros(len(logits), dtype=torch.int64)
    for i, edges in enumerate(incoming):
        node[list(edges)] = i
    power = (logits - logits.detach().max()).exp()
    node = node.to(logits.device)
    return power / torch.zeros_like(power).index_add(0, node, power)[node]


def one_hot(index: Tensor, n: int) -> Tensor:
    """(D,) -> (D, n)."""
    return functional.one_hot(index, n)


def gumbel(logits: Tensor, tau: float, generator: torch.Generator) -> tuple[Tensor, Bools]:
    """One operation per row by Gumbel-softmax, with the gradient of the soft weights.

    Dong and Yang, "Searching for a Robust Neural Architecture in Four GPU Hours", CVPR 2019,
    eq. 6 and 7: the weight of the drawn operation is 1, its derivative that of the softmax.
    """
    uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
    noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
    soft = ((logits.log_softmax(-1) + noise.to(logits.device)) / tau).softmax(-1)
    hard = one_hot(soft.argmax(-1), logits.shape[1])
    return hard - soft.detach() + soft, hard.bool().cpu().numpy()


def binary_gates(logits: Tensor, paths: int, generator: torch.Generator) -> tuple[Tensor, Bools]:
    """`paths` operations per row, drawn by their softmax. One of them, drawn by the softmax over
    these, is open (1), the others shut (0), and the gates' gradient goes to the logits through
    that softmax.

    Cai, Zhu and Han, "ProxylessNAS", ICLR 2019, section 3.2: one path to train weights, two to
    learn the logits.
    """
    drawn = torch.multinomial(logits.detach().cpu().softmax(-1), paths, generator=generator)
    mask = torch.zeros(logits.shape, dtype=torch.bool).scatter(1, drawn, True)
    soft = logits.masked_fill(~mask.to(logits.device), -torch.inf).softmax(-1)
    opened = torch.multinomial(soft.detach().cpu(), 1, generator=generator)[:, 0]
    gates = one_hot(opened, logits.shape[1]).to(soft)
    return gates - soft.detach() + soft, mask.numpy()
