"""Operation strength by its definition, from features (eq. 8); a search reads it off gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nasplug.nn import Batch, MixedOp, Mixture, Supernet, mixed_ops


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
            allowed = {k: op.ops[k](x) for k in np.flatnonzero(mixture.mask[op.decision]).tolist()}
            nothing = torch.zeros_like(next(iter(allowed.values())))
            outputs = torch.stack([allowed.get(k, nothing) for k in range(mixture.mask.shape[1])])
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
