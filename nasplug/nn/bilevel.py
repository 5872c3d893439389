"""Bi-level optimisation: weights by the training loss, architecture by the validation loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from nasplug.nn.mixed import Bools
from nasplug.nn.recording import Outputs, Recording, repeats
from nasplug.nn.supernet import Supernet
from nasplug.nn.task import CLASSIFICATION, Task, call

Batch = tuple[Any, Any]  # inputs and labels, as `nasplug.nn.Stream` has them

LR_MIN = 0.001  # where the cosine schedule of the weights ends
MOMENTUM = 0.9
WEIGHT_DECAY = 3e-4
CLIP = 5.0  # largest norm of the weights' gradient
BETAS = (0.5, 0.999)  # Adam's, for the architecture
ARCH_WEIGHT_DECAY = 1e-3


@dataclass
class Mixture:
    """What a relaxed step mixes: weights (D, O), the mask (D, O), gates (D,) of the edges."""

    weights: Tensor
    mask: Bools
    gates: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """The weights, and the gates if there are any."""
        return [self.weights] if self.gates is None else [self.weights, self.gates]

    def of(self, tensors: Sequence[Tensor]) -> Mixture:
        """The same of others."""
        return Mixture(tensors[0], self.mask, tensors[1] if tensors[1:] else None)


class BiLevel:
    r"""Steps of :math:`\min_\alpha L_{val}(w^*(\alpha), \alpha)`, w* the minimum of L_train.

    net: its parameters are w. parameters: α and whatever else the mixture is made of.
    mixture: makes the mixture from them, with gradient. task: has the loss, and the optimiser of w
    if that is no SGD. order: 1 takes w for w*, 2 takes w after one more step of training (Liu et
    al., DARTS, ICLR 2019, eq. 7 and 8).

    coasts: weights that have learned and take no part in a step go on by their momentum and decay,
    as with gradients of zero; else they stay as they are.

    penalty: a term of the loss that depends on the architecture alone, None for none.

    After an architecture step, `mixed` are the mixing weights (D, O) that it was taken at,
    `gradient` is ∂L_val/∂mixed, summed over the cells that share them, and
    ``parameters[i].grad`` is what the optimiser took.
    """

    def __init__(
        self,
        net: Supernet,
        parameters: Sequence[Tensor],
        mixture: Callable[[], Mixture],
        task: Task = CLASSIFICATION,
        *,
        lr: float = 0.025,
        arch_lr: float = 3e-4,
        order: int = 1,
        coasts: bool = False,
    ) -> None:
        self.net, self.parameters, self.mixture = net, list(parameters), mixture
        self.task, self.order, self.coasts = task, order, coasts
        self.w = [p for p in net.parameters() if p.requires_grad]
        self.weights = task.make_optimizer(self.w) or torch.optim.SGD(
            self.w, lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, foreach=True
        )
        self.rates = [group["lr"] for group in self.weights.param_groups]
        self.architecture = torch.optim.Adam(
            self.parameters, arch_lr, betas=BETAS, weight_decay=ARCH_WEIGHT_DECAY
        )
        self.penalty: Callable[[], Tensor] | None = None
        alone = self.w[0].is_cuda and not processes()  # whose threads would disturb a recording
        self.recordable = alone and repeats([*net.modules(), task.loss])
        pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None
        self.weight_pass, self.architecture_pass = Recording(pool), Recording(pool)
        self.mixed = self.gradient = torch.zeros(0)

    def schedule(self, progress: float) -> None:
        """Set the weights' learning rate, progress from 0 to 1: a cosine from lr to LR_MIN."""
        for group, lr in zip(self.weights.param_groups, self.rates, strict=True):
            low = min(LR_MIN, lr)
            group["lr"] = low + (lr - low) * (1 + math.cos(math.pi * progress)) / 2

    def loss(self, batch: Batch, mixture: Mixture) -> Tensor:
        x, y = batch
        self.net.mix(mixture.weights, mixture.mask, mixture.gates)
        half = any(leaf.is_cuda and leaf.dtype == torch.float32 for leaf in tree_leaves(x))
        return self.task.cost(call(self.net, x, half), y)

    # ---- w

    def weight_step(self, batch: Batch, mixtures: Sequence[Mixture] = ()) -> Tensor:
        """One step of SGD on w; returns the loss.

        mixtures: several to add the gradients of, instead of the one that `mixture` makes.
        """
        if not mixtures:
            with torch.no_grad():
                mixtures = [self.mixture()]
        self.weights.zero_grad()
        if len(mixtures) == 1 and self.recordable:
            loss, gradients = self._recorded(self.weight_pass, batch, mixtures[0], self.w)
            for p, g in zip(self.w, gradients, strict=True):
                p.grad = g
        else:
            for mixture in mixtures:
                loss = self.loss(batch, mixture)
                torch.autograd.backward(loss)
        for p in self.w if self.coasts else ():
            if p.grad is None and p in self.weights.state:
                p.grad = torch.zeros_like(p)
        average([p.grad for p in self.w if p.grad is not None])
        nn.utils.clip_grad_norm_(self.w, CLIP, foreach=True)
        self.weights.step()
        return loss.detach()

    # ---- α

    def architecture_step(self, batch: Batch, train: Batch) -> Tensor:
        """One step of Adam on the architecture; returns the validation loss.

        train: the batch of the weights' next step, which the second order unrolls.
        """
        mixture = self.mixture()
        inputs = mixture.tensors
        leaves = [t.detach().requires_grad_() for t in inputs]
        detached = mixture.of(leaves)
        if self.order == 1 and self.recordable:
            loss, found = self._recorded(self.architecture_pass, batch, detached)
            gradients = _no_none(found, leaves)
        elif self.order == 1:
            loss, gradients = self._gradients(batch, detached, leaves)
        else:
            loss, gradients = self._unrolled(batch, train, detached, leaves)
        average(gradients)
        self.mixed, self.gradient = leaves[0].detach(), gradients[0]
        self.architecture.zero_grad()
        torch.autograd.backward(inputs, gradients)
        if self.penalty:
            torch.autograd.backward(self.penalty())
        self.architecture.step()
        return loss

    def _gradients(
        self, batch: Batch, mixture: Mixture, inputs: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss and its gradient; zeros for what took no part."""
        loss = self.loss(batch, mixture)
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        return loss.detach(), _no_none(gradients, inputs)

    def _recorded(
        self, recording: Recording, batch: Batch, mixture: Mixture, w: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Outputs]:
        """The loss and its gradient by w, or else by what is mixed; None for what took no part.
        On a GPU; the next call with this recording overwrites them."""
        leaves, tree = tree_flatten(batch)

        def compute(*tensors: Tensor) -> Outputs:
            mixed = tensors[len(leaves) :]
            loss = self.loss(tree_unflatten(tensors[: len(leaves)], tree), mixture.of(mixed))
            return [loss.detach(), *torch.autograd.grad(loss, w or mixed, allow_unused=True)]

        inputs = [*leaves, *mixture.tensors]
        key = mixture.mask.tobytes(), [x.shape for x in inputs], self.task.loss
        loss, *gradients = recording(key, compute, inputs)
        assert loss is not None
        return loss, gradients

    def _unrolled(
        self, batch: Batch, train: Batch, mixture: Mixture, leaves: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """∇α L_val(w', α) - ξ ∇²α,w L_train(w, α) ∇w' L_val(w', α), w' = w - ξ ∇w L_train."""
        xi = self.weights.param_groups[0]["lr"]
        saved = [p.detach().clone() for p in self.w]
        _, down = self._gradients(train, mixture, self.w)
        for p, g in zip(self.w, down, strict=True):
            momentum = (
                self.weights.state[p].get("momentum_buffer") if p in self.weights.state else None
            )
            step = g + WEIGHT_DECAY * p.detach()
            p.data.sub_(step if momentum is None else step + MOMENTUM * momentum, alpha=xi)
        loss, gradients = self._gradients(batch, mixture, [*leaves, *self.w])  # eq. 7
        first, vector = gradients[: len(leaves)], gradients[len(leaves) :]

        norm = torch.stack(torch._foreach_norm(vector)).norm()
        epsilon = 0.01 / float(norm.clamp(min=1e-12))  # eq. 8
        ends = []
        for sign in (1, -1):
            for p, w, v in zip(self.w, saved, vector, strict=True):
                p.data.copy_(w).add_(v, alpha=sign * epsilon)
            ends.append(self._gradients(train, mixture, leaves)[1])
        for p, w in zip(self.w, saved, strict=True):
            p.data.copy_(w)
        plus, minus = ends
        return loss, [
            g - xi * (a - b) / (2 * epsilon) for g, a, b in zip(first, plus, minus, strict=True)
        ]

    # ---- checkpoints

    def state(self) -> dict[str, Any]:
        """Weights, parameters and optimisers, as tensors in nested dicts."""
        return {
            "net": self.net.state_dict(),
            "parameters": list(self.parameters),
            "weights": self.weights.state_dict(),
            "architecture": self.architecture.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        with torch.no_grad():
            for p, value in zip(self.parameters, state["parameters"], strict=True):
                p.copy_(value)
        self.weights.load_state_dict(state["weights"])
        self.architecture.load_state_dict(state["architecture"])


def _no_none(gradients: Sequence[Tensor | None], of: Sequence[Tensor]) -> list[Tensor]:
    """The gradients, zeros where there is none."""
    return [torch.zeros_like(x) if g is None else g for x, g in zip(of, gradients, strict=True)]


def processes() -> int:
    """How many a launcher (torchrun, Fabric) has started; 0 without one."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 0


def average(gradients: Sequence[Tensor]) -> None:
    """In place, over all processes, where there are several."""
    if n := processes():
        flat = torch.cat([g.flatten() for g in gradients])
        torch.distributed.all_reduce(flat)
        flat /= n
        start = 0
        for g in gradients:
            g.copy_(flat[start : start + g.numel()].view_as(g))
            start += g.numel()
