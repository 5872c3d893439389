"""A supernet that is trained and not searched: by uniform paths, by fair ones, or by the progressive
shrinking of "Once-for-All: Train One Network and Specialize it for Efficient Deployment" (Cai et
al., ICLR 2020)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nasplug import Archs, Choice, Int, NasplugError, Search, Selection, Space, hookimpl
from nasplug.nn import SUPERNET, Batch, Task, call
from nasplug_oneshot.paths import SinglePaths

SHRINKING = "progressive-shrinking"
DRAWN = 1000  # archs, of which the middle one is scored


class SupernetTraining(SinglePaths):
    """A supernet and no search: what `--evaluator supernet:RUN_DIR` scores by.

    A trial is an epoch. Its arch is of middle size, its value what that scores with the weights
    that it inherits and batch norms recalibrated for it; metrics say the same of the smallest and
    the largest arch.

    Progressive shrinking trains the largest arch at first. In stages of as many epochs each what
    the space says is added: of mobilenet smaller kernels, then depths, then expansions. All that
    time the largest arch, as it was after the first stage, teaches: its softmax is a second label.
    """

    paper = "Cai et al., Once-for-All: Train One Network and Specialize it, ICLR 2020"
    problem = "mobilenet/digits"

    strategy = Choice(
        "uniform", choices=("uniform", "fair", SHRINKING), tunable=False,
        doc="random paths; paths with different choices (FairNAS); or from the largest arch to all "
        "of them (Once-for-All)",
    )  # fmt: skip
    paths = Int(
        2, low=1, high=100, tunable=False,
        doc="per step, their gradients added up; fair ones are as many as a layer has choices",
    )  # fmt: skip

    @property
    def fair(self) -> bool:
        return self.strategy == "fair"

    @property
    def at_once(self) -> int:
        return super().at_once if self.fair else self.paths

    def start(self, search: Search) -> list[Tensor]:
        self.teacher: nn.Module | None = None
        self.archs = self._three()
        if self.strategy == SHRINKING:
            self.stages = self.net.stages()
            if not isinstance(self.handed, Space):
                raise NasplugError(
                    f"{SHRINKING} comes to all archs of a space, and {self.handed.describe()} has "
                    "some: take another strategy"
                )
            if self.total < len(self.stages):
                raise NasplugError(
                    f"{SHRINKING} has {len(self.stages)} stages, of an epoch at least: "
                    f"{self.total} epochs are too few"
                )
        return super().start(search)

    def _three(self) -> Archs:
        """(3, d): the smallest arch, a middle one and the largest."""
        ends = [
            self.net.select(np.where(self.mask, sign * self.net.costs, -np.inf), self.handed)
            for sign in (-1, 1)
        ]
        archs = np.concatenate([ends, self.handed.sample(DRAWN, self.seed)])
        archs = archs[self.handed.contains(archs)]
        costs = (self.net.chosen(archs) * self.net.costs).sum((1, 2))
        return archs[np.argsort(costs, kind="stable")[[0, len(archs) // 2, -1]]]

    # ---- progressive shrinking

    @property
    def stage(self) -> int:
        return self.step // self.per_epoch * len(self.stages) // self.total

    def draw(self, n: int, rng: np.random.Generator) -> Archs:
        if self.strategy != SHRINKING:
            return super().draw(n, rng)
        return self.net.space.unique(self.net.draw(self.stages[self.stage], n, rng))

    def weight_step(self, train: Batch) -> Tensor:
        if self.strategy != SHRINKING or not self.stage:
            return super().weight_step(train)
        if self.teacher is None:
            self.teacher = self.net.inherit(self.archs[-1])
        x, y = train
        with torch.no_grad():
            output = call(self.teacher, x)
        task = self.bilevel.task
        self.bilevel.task = replace(task, loss=partial(taught, task))
        try:
            return super().weight_step((x, (y, output)))
        finally:
            self.bilevel.task = task

    def memory(self) -> dict[str, Any]:
        weights = self.teacher.state_dict() if self.teacher else {}
        return {"teacher": {name: x.cpu().numpy() for name, x in weights.items()}}

    def remember(self, memory: dict[str, Any]) -> None:
        if weights := memory["teacher"]:
            self.teacher = self.net.inherit(self.archs[-1])
            self.teacher.load_state_dict({name: torch.tensor(x) for name, x in weights.items()})

    # ---- trials

    def selected(self) -> Archs:
        return self.archs[1]

    def watch(self, arch: Archs) -> dict[str, float]:
        smallest, _, largest = map(self.score, self.archs)
        metric = self.images.task.metric.name
        return {f"smallest_{metric}": smallest, f"largest_{metric}": largest}

    @hookimpl
    def select_final(self, search: Search) -> Selection:
        selection = super().select_final(search)
        selection.files[SUPERNET] = self.save
        return selection


def taught(task: Task, output: Tensor, labels: tuple[Any, Tensor]) -> Tensor:
    """The loss of a batch, its labels being those of the data and a teacher's outputs."""
    label, teacher = labels
    if isinstance(task.loss, nn.CrossEntropyLoss):
        return task.cost(output, label) + functional.cross_entropy(output, teacher.softmax(1))
    return task.cost(output, label) + functional.mse_loss(output, teacher)
