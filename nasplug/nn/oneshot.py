"""What methods that train a supernet share: epochs of steps, and an arch selected after each.

A method derives from `Oneshot`, names its parameters in `start`, makes the mixture of a step from
them, and scores the choices.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from nasplug.errors import NasplugError
from nasplug.hookspecs import hookimpl
from nasplug.kernel.method import Float, Int, Method
from nasplug.kernel.problem import Problem, problem
from nasplug.kernel.search import Search
from nasplug.kernel.selection import Selection
from nasplug.kernel.space import Archs, Space
from nasplug.kernel.subspace import Region
from nasplug.kernel.tree import map_leaves
from nasplug.kernel.trial import Trials
from nasplug.nn import data, datasets
from nasplug.nn.bilevel import Batch, BiLevel, Mixture, processes
from nasplug.nn.data import Images
from nasplug.nn.mixed import Bools
from nasplug.nn.pictures import draw_epochs
from nasplug.nn.supernet import Floats, Supernet
from nasplug.nn.task import count_of, rows_of
from nasplug.nn.training import (
    default_device,
    fixed_threads,
    initialise,
    recalibrate,
    seeded,
    to_device,
)
from nasplug.nn.weights import save_supernet

logger = logging.getLogger("nasplug")

BATCH, FEWEST, STEPS = 64, 16, 24  # images per step: fewer, down to 16, for an epoch of 24 steps
SCORED = 5000  # validation images on which the selected arch is scored after an epoch
SUPERNET = "supernet.safetensors"  # in a run directory
COLLAPSED = 0.75  # a share of edges without operation, or with a skip, that calls for a warning
SETTLED = 10  # epochs without any change, from the first, that call for a warning


class Oneshot(Method):
    """A supernet on the problem's data; a trial is the arch selected after an epoch.

    Its value is the validation accuracy of the supernet restricted to the arch, or the metric of
    the data's task; what it reports is the accuracy that a table of the space states, which the
    search never sees. The size of the supernet is the space's: ``nb201:C=16,N=5``. It trains in the
    region that `evaluate` is handed.
    """

    problem = "nb201:N=1/digits"

    epochs = Int(
        50, low=1, high=100_000, tunable=False, doc="the search ends after them, or with its budget"
    )
    batch = Int(
        0, low=0, high=65_536, tunable=False,
        doc=f"images per step; 0: {BATCH}, or fewer, so that an epoch has {STEPS} steps",
    )  # fmt: skip
    lr = Float(0.025, low=1e-5, high=10, log=True, doc="of the weights: SGD, cosine to 0.001")
    arch_lr = Float(3e-4, low=1e-6, high=10, log=True, doc="of the architecture: Adam")
    warmup = Int(
        0, low=0, high=100_000, tunable=False, doc="first epochs, in which only the weights learn"
    )
    threads = Int(1, low=1, high=1024, tunable=False, doc="of torch; the last bits depend on them")

    maximize = apart = True
    reward = "supernet_acc"  # these two as the task of the data says
    order: ClassVar[int] = 1  # of the bi-level optimisation
    coasts: ClassVar[bool] = False  # weights that learned go on by momentum and decay
    mixes: ClassVar[bool] = True  # whether it adds up several choices of a decision

    # ---- what a method says

    def start(self, search: Search) -> list[Tensor]:
        """Make what is learned beside the weights; returns the tensors."""
        raise NotImplementedError

    def mixture(self) -> Mixture:
        """What the next step mixes, within `mask`."""
        raise NotImplementedError

    def scores(self) -> Floats:
        """(D, O): by which choices are selected."""
        raise NotImplementedError

    def choices_of(self, region: Region) -> Bools:
        """(D, O): the choices that archs of a region have; NasplugError if the method cannot stay
        in it, as one that decides on each decision by itself can only in a mask."""
        return self.net.allowed(region)

    def selected(self) -> Archs:
        """(d,) the arch that is best now."""
        return self.net.select(np.where(self.mask, self.scores(), -np.inf), self.handed)

    def architecture_step(self, val: Batch, train: Batch) -> Tensor | None:
        """Learn the architecture from a batch; returns the loss, None if nothing is learned."""
        return self.bilevel.architecture_step(val, train)

    def weight_step(self, train: Batch) -> Tensor:
        """Learn the weights from a batch; returns the loss."""
        return self.bilevel.weight_step(train)

    def round_steps(self) -> int:
        """Steps until the next round; an epoch's end comes first."""
        return self.per_epoch

    def after_step(self) -> None:
        """Called after every step."""

    def epoch_metrics(self, search: Search) -> dict[str, float]:
        """Further numbers of the epoch that has just ended."""
        return {}

    def criteria(self) -> dict[str, Floats]:
        """(D, O) each: what choices may be selected by, noted with the epoch's trial."""
        return {}

    def memory(self) -> dict[str, Any]:
        """Arrays and numbers of the method that a checkpoint must hold."""
        return {}

    def remember(self, memory: dict[str, Any]) -> None:
        """Continue from what `memory` returned."""

    @property
    def partial(self) -> int:
        """1/partial of the channels pass the operations."""
        return 1

    # ---- setting up

    def setup(self, search: Search) -> None:
        self.seed = int(search.rng.integers(2**31))
        self.step = self.parameter_count = 0
        self.losses: list[float] = []  # of the weights' steps in this epoch
        self.val_losses: list[float] = []  # of the architecture's
        self.arch: Archs | None = None  # the arch selected last
        self.moved = False  # whether the selection has ever changed
        self.clock = time.perf_counter()
        self.device = default_device()
        self.net: Supernet = self.make_supernet(search)  # says first if the space has none
        self.images: Images = self._images(search).to(self.device)
        metric = self.images.task.metric
        self.maximize, self.reward = metric.maximize, f"supernet_{metric.name}"
        self.total = min(self.epochs, search.budget)
        if self.warmup and self.warmup >= self.total:
            raise NasplugError(
                f"warmup={self.warmup} leaves none of {self.total} epochs to learn the "
                "architecture in: raise the budget, or lower warmup"
            )
        self.handed: Region = search.region.unlimited  # what `evaluate` was handed last
        self.mask: Bools = self.choices_of(self.handed)
        several = self.mask & (self.mask.sum(1, keepdims=True) > 1)
        if self.mixes and (unmixable := (several & ~self.net.mixable).any(1)).any():
            raise NasplugError(
                f"{search.method_name} adds up the choices of a decision, and those of "
                f"{self.net.decisions[int(unmixable.argmax())]!r} have outputs of different "
                "shapes, or are values or depths: restrict it to one, or take a method of single "
                "paths"
            )
        images = count_of(self.images.train[1])
        self.batch_size = self.batch or max(min(BATCH, images // STEPS), FEWEST)
        self.train = data.Stream(self.images, self.images.train, **self._stream(0))
        self.val = data.Stream(self.images, self.images.val, **self._stream(1))
        self.per_epoch = self.train.steps
        self.bilevel = BiLevel(
            self.net, self.start(search), self.mixture, self.images.task, lr=self.lr,
            arch_lr=self.arch_lr, order=self.order, coasts=self.coasts,
        )  # fmt: skip
        # This method scores what it proposes; a table of the space is only looked up.
        self.table = tabulated(search.space, search.problem.data)
        self.report = self.table.report if self.table else f"test_{metric.name}"
        search.problem = Problem(
            search.space,
            search.problem.data,
            self,
            "supernet",
            self.maximize,
            search.problem.region,
        )

    def _images(self, search: Search) -> Images:
        evaluator = search.problem.evaluator
        if evaluator is None or search.problem.evaluator_name == "function":
            raise NasplugError(f"{search.method_name} trains a supernet: on what? Give data=")
        return getattr(evaluator, "images", None) or datasets.by_name(
            search.problem.data, search.seed
        )

    def make_supernet(self, search: Search) -> Supernet:
        """The network of the space with every choice in it, freshly initialised."""
        space, region = search.space, search.region.unlimited
        net = initialise(lambda: space.supernet(region, self.partial), self.seed)
        return cast(Supernet, to_device(net, self.device))

    def _stream(self, which: int) -> dict[str, Any]:
        n = processes()
        share = (dist.get_rank(), n) if n else (0, 1)
        return {"batch": self.batch_size, "seed": 2 * self.seed + which, "share": share}

    def parameter(self, *shape: int, spread: float = 1e-3) -> Tensor:
        """A small normal parameter, fixed by the search's seed."""
        self.parameter_count += 1
        generator = torch.Generator().manual_seed(self.seed + self.parameter_count)
        values = spread * torch.randn(shape, generator=generator)
        return values.to(self.device).requires_grad_()

    def masked(self, logits: Tensor, mask: Bools | None = None) -> Tensor:
        """(D, O) logits -> the same, -inf outside of `mask`, by default of what is trained now."""
        inside = self.mask if mask is None else mask
        return logits.masked_fill(logits.new_tensor(~inside).bool(), -torch.inf)

    def generator(self, which: int) -> torch.Generator:
        """Randomness of this step: one for the weights, `which` of them for other draws."""
        return torch.Generator().manual_seed(data.mixed_seed(self.seed, self.step, which))

    # ---- the loop

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Region | Archs:
        return subspace

    @hookimpl
    def evaluate(self, search: Search, candidates: Trials | Region) -> Trials | None:
        if isinstance(candidates, Trials):
            return None
        self.handed, self.mask = candidates, self.choices_of(candidates)
        left = self.per_epoch - self.step % self.per_epoch
        random = seeded(data.mixed_seed(self.seed, self.step, 0))
        with fixed_threads(self.threads), random, self._memory_explained():
            for _ in range(min(left, self.round_steps())):
                self._step()
            if self.step % self.per_epoch:
                return search.candidates(np.empty((0, search.space.d), search.space.dtype))
            return self.finish_epoch(search)

    def _step(self) -> None:
        self.epoch = self.step // self.per_epoch
        self.bilevel.schedule(self.epoch / self.total)
        train = self.train[self.step]
        if self.epoch >= self.warmup:
            loss = self.architecture_step(self.val[self.step], train)
            if loss is not None:
                self.val_losses.append(self._finite(loss, "validation"))
        self.losses.append(self._finite(self.weight_step(train), "training"))
        self.step += 1
        self.after_step()

    def _finite(self, loss: Tensor, which: str) -> float:
        value = loss.item()
        if not np.isfinite(value):
            saved = "the run directory holds the checkpoint of the epoch before. "
            raise NasplugError(
                f"the {which} loss is {value} at step {self.step} (epoch {self.epoch}); "
                f"{saved if self.epoch else ''}Lower lr or arch_lr, or see whether all images are "
                "finite, and labels that are real numbers of about 1"
            )
        return value

    def finish_epoch(self, search: Search) -> Trials:
        """What an epoch ends with: the selected arch as a trial."""
        arch = self.selected()
        value = self.score(arch)
        trials = search.candidates(arch[None])
        known = self.look_up(arch[None])
        metrics: dict[str, Any] = {
            "loss": float(np.mean(self.losses)),
            **({"val_loss": float(np.mean(self.val_losses))} if self.val_losses else {}),
            **self.watch(arch),
            **self.epoch_metrics(search),
        }
        if known is not None and self.table:
            metrics[self.table.reward] = known.values
        if criteria := self.criteria():
            noted = {name: _four_digits(values) for name, values in criteria.items()}
            trials.notes[0] = {"criteria": noted}
        now = time.perf_counter()
        trials.tell(
            values=value, reports=None if known is None else known.reports,
            costs=now - self.clock, metrics=metrics,
        )  # fmt: skip
        self.arch, self.clock = arch, now
        self.losses.clear()
        self.val_losses.clear()
        if self.step >= self.total * self.per_epoch:
            search.stop("all epochs done")
        return trials

    def score(self, arch: Archs) -> float:
        """The metric of the data's task on validation data, with the weights learned here."""
        return self.net.score(arch, self.images, self.images.val, SCORED)

    def look_up(self, archs: Archs) -> Trials | None:
        """What a table of the space knows of some archs, for people; None without a table."""
        return self.table.score(archs) if self.table else None

    def watch(self, arch: Archs) -> dict[str, float]:
        """How the selection moves, and a warning when it collapses."""
        rows = self.net.chosen(arch[None])[0].astype(float)
        share = float((rows * self.net.idle).sum() / rows.sum())
        metrics = {"idle_share": share}
        if self.arch is not None:
            before = self.net.chosen(self.arch[None])[0].astype(float)
            cosine = (rows * before).sum() / np.sqrt(rows.sum() * before.sum())
            metrics["distance"] = 1 - float(cosine)
            self.moved |= cosine < 1 - 1e-9
        epoch = self.step // self.per_epoch
        if share >= COLLAPSED:
            logger.warning(
                "epoch %d: collapse, %.0f%% of the operations do nothing (zero, skip)",
                epoch, 100 * share,
            )  # fmt: skip
        if epoch == SETTLED and not self.moved:
            logger.warning("no edge's choice has changed in %d epochs", epoch)
        return metrics

    def inherit(self, arch: Archs) -> torch.nn.Module:
        """The network of an arch with the weights learned here, its batch norms recalibrated."""
        return recalibrate(self.net.inherit(arch), self.images).cpu()

    def save(self, file: Path) -> None:
        """Write what the supernet has learned: as the file `SUPERNET` of a Selection it is what
        the evaluator ``supernet:RUN_DIR`` scores by."""
        save_supernet(self.net, file, self.images.digest)

    @hookimpl
    def select_final(self, search: Search) -> Selection:
        assert self.arch is not None
        return Selection(
            self.arch[None], pictures={"epochs.png": lambda figure: draw_epochs(search, figure)}
        )

    @contextmanager
    def _memory_explained(self) -> Iterator[None]:
        """Out of memory says which batch size would fit."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)  # they hold what the step has computed
            fits = self._fitting_batch()
        else:
            return
        advice = f"batch={fits} would fit" if fits else "not even one image fits"
        raise NasplugError(
            f"out of memory at batch={self.batch_size}, {self.mask.sum()} operations: {advice}; "
            "memory also falls with the size of the space and the operations mixed at a time"
        )

    def _fitting_batch(self) -> int:
        size = self.batch_size // 2
        x, y = self.train[self.step]
        while size:
            torch.cuda.empty_cache()
            try:
                with torch.no_grad():
                    mixture = self.mixture()
                smaller = rows_of((x, y), slice(size))
                torch.autograd.backward(self.bilevel.loss(smaller, mixture))
            except torch.OutOfMemoryError:
                size //= 2
            else:
                break
        return size

    # ---- checkpoints, one per epoch

    def state(self) -> dict[str, Any] | None:
        if self.step % self.per_epoch:
            return None
        return {
            "step": self.step,
            "arch": self.arch,
            "moved": self.moved,
            "bilevel": map_leaves(_array, self.bilevel.state()),
            "memory": self.memory(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.step, self.moved = int(state["step"]), bool(state["moved"])
        self.arch = None if state["arch"] is None else np.asarray(state["arch"])
        self.bilevel.load_state(map_leaves(_tensor, state["bilevel"]))
        self.remember(state["memory"])


def tabulated(space: Space, data: str) -> Problem | None:
    """The table of a space at the size that its benchmark has trained, if there is one."""
    base = getattr(space, "base", space.name)
    try:
        return problem(f"{base}/{data}", evaluator="table")
    except NasplugError:
        return None


def _four_digits(values: Floats) -> Any:
    return np.vectorize(lambda x: float(f"{x:.3e}"))(values).tolist()


def _array(leaf: Any) -> Any:
    return leaf.detach().cpu().numpy() if isinstance(leaf, Tensor) else leaf


def _tensor(leaf: Any) -> Any:
    return torch.tensor(leaf) if isinstance(leaf, np.ndarray) else leaf
