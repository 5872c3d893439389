"""Stand-alone training: each arch is built, trained from scratch and scored on real data."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from nasplug.errors import NasplugError, unknown
from nasplug.evaluators.function import FunctionEvaluator
from nasplug.hookspecs import hookimpl
from nasplug.kernel.search import Search
from nasplug.kernel.space import Space
from nasplug.kernel.trial import Trial, TrialPruned, Trials
from nasplug.nn import data as datasets
from nasplug.nn.data import Images
from nasplug.nn.training import initialise, train


class TrainEvaluator(FunctionEvaluator):
    """The reward is the validation accuracy, the report the test accuracy, both in %.

    data: a name that `nasplug.nn.load` knows, or images of the user's own; to their shape and
    classes the space is sized. The split and the training are fixed by the search's seed, so an
    arch has one value in a search. For spaces that build networks of images.

    The fidelity are the epochs of one training, whose learning rate falls by a cosine to 0 at the
    highest: an arch that was trained for less has stopped on the way there, and goes on from its
    checkpoint as if it never had.
    """

    epochs: ClassVar[dict[str, int]] = {"digits": 5, "": 12}
    fidelity: tuple[str, int, int]
    search: Search | None = None  # to which it says what it is doing

    def __init__(
        self,
        space: Space,
        data: Any,
        reward: str | None = None,
        report: str | None = None,
        seed: int = 0,
    ) -> None:
        self.name, self.seed = (data if isinstance(data, str) else ""), seed
        if not space.builds:
            raise NasplugError(f"{space.name} builds no networks that could be trained")
        if self.name in self.data(space):
            suited = space.for_data(self.name)
            space = space if suited.sizes == space.sizes else suited
        else:
            self.images = datasets.load(data, seed)
            space = self.images.size(space)
        self.space = space
        super().__init__(space, self._train)
        self.fidelity = ("epochs", 1, self.epochs.get(self.name, self.epochs[""]))
        self.reward, self.report = reward or "val_acc", report or "test_acc"
        for wanted in (self.reward, self.report):
            if wanted not in ("val_acc", "test_acc"):
                raise unknown("metric of training", wanted, ("val_acc", "test_acc"))

    @cached_property
    def images(self) -> Images:
        """Read when they are first needed."""
        return datasets.load(self.name, self.seed)

    @classmethod
    def data(cls, space: Space) -> list[str]:
        if not (space.builds and space.sizes):
            return []
        folder = os.environ.get("NASPLUG_DATA")
        images = folder and (Path(folder) / "cifar10" / "train.parquet").exists()
        return ["digits", "cifar10"] if images else ["digits"]

    @classmethod
    def missing(cls, space: Space, data: str) -> str:
        if data != "cifar10" or not (space.builds and space.sizes):
            return ""
        return "to train on it, set NASPLUG_DATA to the folder that holds cifar10/train.parquet"

    @hookimpl
    def evaluate(self, search: Search | None, candidates: Trials) -> Trials:
        self.search = search
        if "images" not in vars(self):
            self._say(f"reading {self.name}")
        super().evaluate(search, candidates)
        self._say("")
        return candidates

    def _say(self, activity: str) -> None:
        if self.search is not None:
            self.search.activity = activity

    def _train(self, arch: dict[str, Any], trial: Trial) -> dict[str, Any]:
        def begin(epoch: int) -> None:
            self._say(f"trial {trial.number}: epoch {epoch}/{until}")

        def report(epoch: int, accuracy: float) -> bool:
            trial.report(accuracy, epoch)
            return trial.should_prune()

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = initialise(lambda: self.space.build(trial.arch), self.seed).to(device)
        _, _, epochs = self.fidelity
        until = trial.fidelity
        result = train(
            model, self.images, epochs, self.seed, until=until, checkpoint=trial.checkpoint,
            report=report if trial.pruner else None, begin=begin,
        )  # fmt: skip
        if result["pruned"]:
            raise TrialPruned
        scores = {"val_acc": result["value"], "test_acc": result["report"]}
        return {
            "value": scores[self.reward],
            "report": scores[self.report],
            "cost": result["seconds"],
            "params": result["params"],
            "trained_epochs": result["trained"],
            **self._flops(trial),
        }

    def _flops(self, trial: Trial) -> dict[str, float]:
        """{"flops": multiply-adds of the network that is trained}, where the space knows them."""
        try:
            return {"flops": float(self.space.flops(trial.arch[None])[0])}
        except NasplugError:
            return {}
