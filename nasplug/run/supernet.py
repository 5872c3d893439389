"""A supernet that an earlier run has trained as the evaluator of any other method."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch import nn

from nasplug.errors import NasplugError, unknown
from nasplug.evaluators.function import FunctionEvaluator
from nasplug.evaluators.train import TrainEvaluator
from nasplug.kernel.space import Archs, Space
from nasplug.kernel.subspace import Region, load
from nasplug.kernel.trial import Trial
from nasplug.nn import (
    SUPERNET,
    Supernet,
    default_device,
    fixed_threads,
    initialise,
    recalibrate,
    to_device,
)
from nasplug.nn.weights import about_weights, load_weights
from nasplug.run.directory import RunDirectory
from nasplug.run.earlier import finished, split

SCORED = 5000  # images, as in SPOS


class SupernetEvaluator(FunctionEvaluator):
    """The reward is the validation accuracy in %, the report the test accuracy, or another metric
    as the task of the data says, of the arch with the weights that it inherits.

    option: the directory of a run that has trained a supernet of the space on the same data, split
    in the same way; with ``,images=1000`` an arch is scored on the first 1000 images of both
    parts, and its batch norms are recalibrated on half as many to train on. The same arch always
    has the same value.
    """

    option = "RUN_DIR or RUN_DIR,images=NUMBER"

    def __init__(
        self, space: Space, data: Any, reward: str | None = None, report: str | None = None,
        seed: int = 0, option: str = "",
    ) -> None:  # fmt: skip
        run_dir, count = split("supernet", option, "images", str(SCORED))
        if not count.isdecimal() or int(count) < 1:
            raise NasplugError(f"images= is a number of images, got {count!r}")
        self.count = int(count)
        seed = RunDirectory.open(run_dir).run["options"]["seed"]
        like = TrainEvaluator(space, data, seed=seed)  # split as the supernet has seen them
        self.space, self.images = like.space, like.images
        run = finished("supernet", run_dir, self.space).search
        file = Path(run_dir) / SUPERNET
        if not file.exists():
            raise NasplugError(
                f"{run_dir} left no supernet that others score with: {run.method_name} trains "
                "none; spos and supernet do"
            )
        if about_weights(file, "data")["data"] != self.images.digest:
            raise NasplugError(f"{run_dir} trained its supernet on other data than these")
        metric = self.images.task.metric
        super().__init__(self.space, self._score, metric.maximize)
        self.reward, self.report = f"supernet_{metric.name}", f"test_{metric.name}"
        for wanted, own in ((reward, self.reward), (report, self.report)):
            if wanted not in (None, own):
                raise unknown("metric of a supernet", str(wanted), [own])
        within = Path(run_dir) / "within.npz"
        if within.exists():
            self.region: Region = load(self.space, within)
        net = initialise(lambda: self.space.supernet(self.region), seed)
        try:
            load_weights(net, file)
        except NasplugError:
            if run.space.name == self.space.name:
                raise
            raise NasplugError(
                f"{run_dir} trained a supernet of {run.space.name}, and networks of "
                f"{self.space.name} are of another size: search on {run.space.name}/..."
            ) from None
        device = default_device()
        self.images = self.images.to(device)
        self.net = cast(Supernet, to_device(net, device))

    def _score(self, arch: dict[str, Any], trial: Trial) -> dict[str, float]:
        parts = [self.images.val, self.images.test]
        with fixed_threads(1):
            value, test = self.net.inherited_scores(trial.arch, self.images, parts, self.count)
        return {"value": value, "report": test}

    def inherit(self, arch: Archs) -> nn.Module:
        """The network of an arch with the weights of the supernet, its batch norms recalibrated."""
        return recalibrate(self.net.inherit(arch), self.images).cpu()
