"""What differentiable methods share: a supernet trained in epochs, an arch selected after each.

A method derives from `Oneshot`, names its parameters in `start`, makes the mixture of a step
from them, and scores the operations. Torch is imported when a search starts, not here.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nasplug.errors import NasplugError
from nasplug.hookspecs import hookimpl
from nasplug.hyperparameters import Float, Int, Method, Source
from nasplug.problem import Problem
from nasplug.space import Archs
from nasplug.subspace import Region, Subspace
from nasplug.trial import Trials

if TYPE_CHECKING:
    from torch import Tensor

    from nasplug.nn.bilevel import Batch, Mixture
    from nasplug.nn.data import Images
    from nasplug.nn.mixed import Bools
    from nasplug.nn.supernet import Floats, Supernet
    from nasplug.search import Search

logger = logging.getLogger("nasplug")

# (space, data) -> what C, layers, batch and epochs are unless they are set; elsewhere the papers'.
SIZES = {
    ("nb201", "digits"): {"C": 8, "layers": 1, "batch": 32, "epochs": 50},
    ("darts", "digits"): {"C": 4, "layers": 3, "batch": 128, "epochs": 25},
    ("nb201", ""): {"C": 16, "layers": 5, "batch": 64, "epochs": 50},
    ("darts", ""): {"C": 16, "layers": 8, "batch": 64, "epochs": 50},
}
SCORED = 5000  # validation images on which the selected arch is scored after an epoch
COLLAPSED = 0.75  # a share of edges without operation, or with a skip, that calls for a warning
SETTLED = 10  # epochs without any change, from the first, that call for a warning


class Oneshot(Method):
    """A supernet on the problem's data; a trial is the arch selected after an epoch.

    Its value is the validation accuracy of the supernet restricted to the arch; what it
    reports is the accuracy that the problem's table states, which the search never sees.
    """

    epochs = Int(
        0, low=0, high=100_000, tunable=False,
        doc="the search ends after them, or with its budget; 0: 50, on darts/digits 25",
    )  # fmt: skip
    batch = Int(
        0,
        low=0,
        high=65_536,
        tunable=False,
        doc="images per step; 0: 64, on digits 32 (darts: 128)",
    )
    C = Int(
        0,
        low=0,
        high=1024,
        tunable=False,
        doc="channels, of the first stage; 0: 16, on digits fewer",
    )
    layers = Int(
        0, low=0, high=100, tunable=False,
        doc="cells (of nb201: in each of 3 stages); 0: 8 (nb201: 5), on digits fewer; spaces of "
        "layers say themselves",
    )  # fmt: skip
    lr = Float(0.025, low=1e-5, high=10, log=True, doc="of the weights: SGD, cosine to 0.001")
    arch_lr = Float(3e-4, low=1e-6, high=10, log=True, doc="of the architecture: Adam")
    warmup = Int(
        0, low=0, high=100_000, tunable=False, doc="first epochs, in which only the weights learn"
    )
    threads = Int(1, low=1, high=1024, tunable=False, doc="of torch; the last bits depend on them")
    data = Source(None, doc="from Python: a torch Dataset or `Images` instead of the problem's")

    maximize = True
    reward = "supernet_acc"
    order: ClassVar[int] = 1  # of the bi-level optimisation

    # ---- what a method says

    def start(self, search: Search) -> list[Tensor]:
        """Make what is learned beside the weights; returns the tensors."""
        raise NotImplementedError

    def mixture(self) -> Mixture:
        """What the next step mixes."""
        raise NotImplementedError

    def scores(self) -> Floats:
        """(D, O): by which operations are selected."""
        raise NotImplementedError

    def selected(self) -> Archs:
        """(d,) the arch that is best now."""
        return self.net.select(np.where(self.allowed, self.scores(), -np.inf))

    def architecture_step(self, val: Batch, train: Batch) -> Tensor | None:
        """Learn the architecture from a batch; returns the loss, None if nothing is learned."""
        return self.bilevel.architecture_step(val, train)

    def weight_step(self, train: Batch) -> Tensor:
        """Learn the weights from a batch; returns the loss."""
        return self.bilevel.weight_step(train)

    def round_steps(self) -> int:
        """Steps until the next round; an epoch's end comes first."""
        return self.per_epoch

    def learned(self) -> None:
        """Called after every step."""

    def epoch_metrics(self, search: Search) -> dict[str, float]:
        """Further numbers of the epoch that has just ended."""
        return {}

    def epoch_notes(self) -> dict[str, Any]:
        """Whatever JSON can hold, kept with the epoch's trial."""
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

    def adapt(self, problem: Problem) -> Problem:
        """Spaces of layers on a skeleton are sized by the hyperparameters and by the images."""
        resized = getattr(problem.space, "resized", None)
        if resized is None:
            return problem
        space = resized(layers=self.layers, C=self.C, **_shape(self.data))
        return replace(problem, space=space, region=space)

    def setup(self, search: Search) -> None:
        try:
            import torch

            from nasplug.nn import data
            from nasplug.nn.bilevel import BiLevel
        except ImportError as error:
            raise NasplugError(
                f"{search.method_name} needs {error.name}: pip install 'nasplug[torch]'"
            ) from None
        self.seed = int(search.rng.integers(2**31))
        self.step = self.made = 0
        self.losses: list[float] = []  # of the weights' steps in this epoch
        self.val_losses: list[float] = []  # of the architecture's
        self.arch: Archs | None = None  # the arch selected last
        self.moved = False  # whether the selection has ever changed
        self.clock = time.perf_counter()
        images = _images(self.data, search)
        # torchrun says which of the machine's GPUs is this process's.
        gpu = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        self.device = gpu if torch.cuda.is_available() else "cpu"
        self.images: Images = images.to(self.device)
        name = search.space.name
        wanted = [(n, d) for n in (name, "nb201") for d in (search.problem.data, "")]
        sizes = next(SIZES[key] for key in wanted if key in SIZES)
        self.sizes = {name: getattr(self, name) or sizes[name] for name in sizes}
        self.total = min(self.sizes["epochs"], search.budget)
        self.net: Supernet = self.make_supernet(search)
        self.allowed: Bools = self.net.allowed(search.region)
        self.train = data.Stream(self.images, self.images.train, **self._stream(0))
        self.val = data.Stream(self.images, self.images.val, **self._stream(1))
        self.per_epoch = self.train.steps
        self.bilevel = BiLevel(
            self.net, self.start(search), self.mixture, lr=self.lr, arch_lr=self.arch_lr,
            order=self.order,
        )  # fmt: skip
        # This method scores what it proposes; the problem's own evaluator is only looked up.
        self.table = search.problem
        self.region = self.table.region or search.space
        self.report = getattr(self.table.evaluator, "report", "report")
        if self.table.evaluator_name != "table":
            self.report = "test_acc"
        search.problem = Problem(
            search.space, self.table.data, self, "supernet", True, self.table.region
        )

    def make_supernet(self, search: Search) -> Supernet:
        """The network of the space with every operation in it, freshly initialised."""
        from nasplug.nn.supernet import supernet
        from nasplug.nn.training import initialise, place

        if any(side % 4 or side < 8 for side in self.images.train[0].shape[2:]):
            height, width = self.images.train[0].shape[2:]
            raise NasplugError(
                f"images of {height}x{width} do not fit: a supernet halves them twice, so both "
                "sides must be multiples of 4, at least 8; resize or pad them"
            )
        options = {
            "num_classes": self.images.num_classes,
            "in_channels": self.images.in_channels,
            "C": self.sizes["C"],
            "layers": self.sizes["layers"],
            "partial": self.partial,
        }
        net = initialise(lambda: supernet(search.space, **options), self.seed)
        return place(net, self.device)

    def _stream(self, which: int) -> dict[str, Any]:
        import torch.distributed as dist

        share = (0, 1)
        if dist.is_available() and dist.is_initialized():
            share = dist.get_rank(), dist.get_world_size()
        return {"batch": self.sizes["batch"], "seed": 2 * self.seed + which, "share": share}

    def parameter(self, *shape: int, spread: float = 1e-3) -> Tensor:
        """A small normal parameter, fixed by the search's seed."""
        import torch

        self.made += 1
        generator = torch.Generator().manual_seed(self.seed + self.made)
        values = spread * torch.randn(shape, generator=generator)
        return values.to(self.device).requires_grad_()

    # ---- the loop

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Region:
        return self.net.region(self.allowed)

    @hookimpl
    def evaluate(self, search: Search, candidates: Trials | Subspace) -> Trials | None:
        from nasplug.nn.training import fixed_threads

        if not isinstance(candidates, Subspace):
            return None
        left = self.per_epoch - self.step % self.per_epoch
        with fixed_threads(self.threads), self._memory_explained():
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
        self.learned()

    def _finite(self, loss: Tensor, which: str) -> float:
        value = loss.item()
        if not np.isfinite(value):
            kept = "the run directory holds the checkpoint of the epoch before. "
            raise NasplugError(
                f"the {which} loss is {value} at step {self.step} (epoch {self.epoch}); "
                f"{kept if self.epoch else ''}Lower lr or arch_lr, or see whether all images are "
                "finite"
            )
        return value

    def finish_epoch(self, search: Search) -> Trials:
        """What an epoch ends with: the selected arch as a trial."""
        arch = self.selected()
        accuracy = self.net.accuracy(arch, self.images, self.images.val, SCORED)
        trials = search.candidates(arch[None])
        reports, looked_up = self.look_up(search, arch[None])
        metrics: dict[str, Any] = {
            "loss": float(np.mean(self.losses)),
            **({"val_loss": float(np.mean(self.val_losses))} if self.val_losses else {}),
            **self.watch(arch),
            **looked_up,
            **self.epoch_metrics(search),
        }
        if notes := self.epoch_notes():
            trials.notes[0] = notes
        now = time.perf_counter()
        trials.tell(values=accuracy, reports=reports, costs=now - self.clock, metrics=metrics)
        self.arch, self.clock = arch, now
        self.losses.clear()
        self.val_losses.clear()
        if self.step >= self.total * self.per_epoch:
            search.stop("all epochs done")
        return trials

    def look_up(self, search: Search, archs: Archs) -> tuple[Floats, dict[str, Floats]]:
        """What the problem's table knows of some archs, for people: reports, and the reward."""
        if self.table.evaluator_name != "table":
            return np.full(len(archs), np.nan), {}
        asked = search.candidates(archs)
        asked.numbers[:] = -1  # no trials: nothing is recorded
        self.table.evaluator.evaluate(search, asked)
        return asked.reports, {self.table.evaluator.reward: asked.values}

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

    @hookimpl
    def select_final(self, search: Search) -> Archs:
        assert self.arch is not None
        if search.directory:
            from nasplug.nn.pictures import draw_epochs, save

            file = search.directory.path / "epochs.png"
            save(file, (8, 5), lambda figure: draw_epochs(search, figure))
        return self.arch[None]

    @contextmanager
    def _memory_explained(self) -> Iterator[None]:
        """Out of memory says which batch size would fit."""
        import torch

        try:
            yield
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)  # they hold what the step has computed
            fits = self._fitting_batch()
        else:
            return
        advice = f"batch={fits} would fit" if fits else "not even one image fits"
        raise NasplugError(
            f"out of memory at batch={self.sizes['batch']}, {self.allowed.sum()} operations: "
            f"{advice}; memory also falls with C, layers and the operations mixed at a time"
        )

    def _fitting_batch(self) -> int:
        import torch

        size = self.sizes["batch"] // 2
        x, y = self.train[self.step]
        while size:
            torch.cuda.empty_cache()
            try:
                with torch.no_grad():
                    mixture = self.mixture()
                torch.autograd.backward(self.bilevel.loss((x[:size], y[:size]), mixture))
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
            "bilevel": _arrays(self.bilevel.state()),
            "memory": self.memory(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.step, self.moved = int(state["step"]), bool(state["moved"])
        self.arch = None if state["arch"] is None else np.asarray(state["arch"])
        self.bilevel.load_state(_tensors(state["bilevel"]))
        self.remember(state["memory"])


def _shape(given: Any) -> dict[str, int]:
    """How large the images are that a user gives."""
    if given is None or isinstance(given, str):
        return {}
    if hasattr(given, "num_classes"):
        return {
            "resolution": given.resolution, "channels": given.in_channels,
            "classes": given.num_classes,
        }  # fmt: skip
    channels, resolution = np.asarray(given[0][0]).shape[:2]
    return {"resolution": resolution, "channels": channels}


def _images(given: Any, search: Search) -> Images:
    from nasplug.nn import data

    if given is None:
        if search.problem.evaluator is None:
            raise NasplugError(f"{search.method_name} trains a supernet: on what? Give data=")
        return data.load(search.problem.data, search.seed)
    if isinstance(given, data.Images):
        return given
    if not (hasattr(given, "__getitem__") and hasattr(given, "__len__")) or isinstance(given, str):
        raise NasplugError(
            "data takes a torch Dataset or nasplug.nn.data.Images, from Python (and once more to "
            f"resume), got {given!r}"
        )
    return data.of(given, seed=search.seed)


def _arrays(tree: Any) -> Any:
    """Every tensor of a tree as an array."""
    if isinstance(tree, dict):
        return {key: _arrays(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_arrays(value) for value in tree]
    return tree.detach().cpu().numpy() if hasattr(tree, "detach") else tree


def _tensors(tree: Any) -> Any:
    """The inverse of `_arrays`; what JSON made a text of is a number again."""
    import torch

    if isinstance(tree, dict):
        return {int(k) if k.isdigit() else k: _tensors(value) for k, value in tree.items()}
    if isinstance(tree, list):
        return [_tensors(value) for value in tree]
    return torch.tensor(tree) if isinstance(tree, np.ndarray) else tree
