"""Operation strength by its definition, from features (eq. 8); a search reads it off gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from nasplug.nn.mixed import MixedOp, Zero, mixed_ops

if TYPE_CHECKING:
    from nasplug.nn.bilevel import Batch, Mixture
    from nasplug.nn.supernet import Supernet


def features(net: Supernet, mixture: Mixture, batch: Batch) -> tuple[Tensor, Tensor]:
    """(D, O) norms of the residual features |o - ō| and (D, O) strengths (not of partial channels).

    Strength is β_o |Σ_l ∂L/∂ō_l (o_l - ō_l)|, summed over the cells l that share β (eq. 8 and 10);
    the norm is the mean over those cells and the images.
    """
    norms, effects = (torch.zeros_like(mixture.weights) for _ in range(2))
    handles = []

    def note(op: MixedOp, inputs: tuple[Tensor], mixed: Tensor) -> None:
        with torch.no_grad():
            x = inputs[0][:, : inputs[0].shape[1] // op.partial]
            outputs = torch.stack(
                [
                    op.ops[k](x) if allowed else Zero(op.stride)(x)
                    for k, allowed in enumerate(mixture.mask[op.decision])
                ]
            )
            residuals = outputs - torch.tensordot(mixture.weights[op.decision], outputs, 1)
            norms[op.decision] += residuals.flatten(2).norm(dim=2).mean(1)

        def receive(gradient: Tensor) -> None:
            effects[op.decision] += (residuals * gradient).flatten(1).sum(1)

        if op.partial == 1:
            handles.append(mixed.register_hook(receive))  # type: ignore[no-untyped-call]

    handles += [op.register_forward_hook(note) for op in mixed_ops(net)]
    x, y = batch
    net.mix(mixture.weights, mixture.mask, mixture.gates)
    torch.autograd.backward(functional.cross_entropy(net(x), y))
    for handle in handles:
        handle.remove()
    for p in net.parameters():
        p.grad = None
    cells = torch.zeros(len(norms)).index_add(0, *_count(net)).to(norms)
    beta = mixture.weights.detach()
    return norms / cells[:, None], beta * effects.abs()


def _count(net: Supernet) -> Any:
    decisions = torch.tensor([op.decision for op in mixed_ops(net)])
    return decisions, torch.ones(len(decisions))
