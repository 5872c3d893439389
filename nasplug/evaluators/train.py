"""Stand-alone training: each arch is built, trained from scratch and scored on real data."""

from __future__ import annotations

import math
import os
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from nasplug.errors import NasplugError, unknown
from nasplug.evaluators.function import FunctionEvaluator
from nasplug.hookspecs import hookimpl
from nasplug.kernel.search import Search
from nasplug.kernel.space import Archs, Space
from nasplug.kernel.trial import Trial, TrialPruned, Trials
from nasplug.nn import datasets
from nasplug.nn.data import Images
from nasplug.nn.datasets import Given
from nasplug.nn.series import folder
from nasplug.nn.training import default_device, initialise, train
from nasplug.nn.weights import inherit_weights, save_weights
from nasplug.spaces.sized import able

LR, BATCH = 0.1, 64
WEIGHTS = ".safetensors"  # after the number of a trial
OPTIONS = ("epochs", "seeds", "lr", "batch", "patience", "amp")


def settings(option: str) -> dict[str, float]:
    """``epochs=20,lr=0.05`` -> {"epochs": 20, "lr": 0.05}."""
    found: dict[str, float] = {}
    for part in filter(None, option.split(",")):
        name, _, text = part.partition("=")
        if name not in OPTIONS:
            raise unknown("option of training", name, OPTIONS)
        try:
            found[name] = float(text) if name == "lr" else int(text)
        except ValueError:
            found[name] = math.nan
        if name == "amp" and found[name] not in (0, 1):
            raise NasplugError(f"amp=1 trains in mixed precision, amp=0 does not; got {part!r}")
        if name != "amp" and not 0 < found[name] < math.inf:
            raise NasplugError(f"training takes {name}=NUMBER above 0, got {part!r}")
    return found


class TrainEvaluator(FunctionEvaluator):
    """The reward is the validation accuracy in %, the report the test accuracy, or another metric,
    as the task of the data says.

    data: a name that `nasplug.nn.load` knows, or data of the user's own; to their shape and
    classes the space is sized; the user's own networks have them as they are given, and others
    normalised. The split and the training are fixed by the search's seed, so an arch has one value
    in a search. option: ``epochs=20,seeds=3,lr=0.05,batch=128,patience=5,amp=1``; of several seeds
    the mean is the value; patience ends a training after so many epochs that were no better than
    the best, with whose weights it is scored; amp is bfloat16.

    The fidelity are the epochs of one training, whose learning rate falls by a cosine to 0 at the
    highest: an arch that was trained for less has stopped on the way there, and goes on from its
    checkpoint as if it never had. With several seeds or with patience there is none.
    """

    option = ",".join(f"{name}=NUMBER" for name in OPTIONS)
    epochs: ClassVar[dict[str, int]] = {"digits": 5, "darcy": 5, "": 12}
    batches: ClassVar[dict[str, int]] = {"darcy": 16, "japanese-vowels": 16}  # of few examples
    search: Search | None = None  # to which it says what it is doing

    def __init__(
        self,
        space: Space,
        data: Any,
        reward: str | None = None,
        report: str | None = None,
        seed: int = 0,
        option: str = "",
    ) -> None:
        given = data if isinstance(data, Given) else Given(data)
        self.name, self.seed = (given.data if isinstance(given.data, str) else ""), seed
        self.settings = settings(option)
        self.folder: Path | None = None  # in which trials keep the weights that they have trained
        if not space.builds:
            raise NasplugError(f"{space.name} builds no networks that could be trained")
        metric = datasets.task_of(self.name).metric
        if self.name in self.data(space) and given == Given(self.name):
            suited = space.for_data(self.name)
            space = space if suited.sizes == space.sizes else suited
        else:
            self.images = datasets.load(data, seed)
            if space.own and not isinstance(given.data, str | Images):
                self.images = self.images.as_given()
            space = self.images.size(space)
            self.try_out(space)
            metric = self.images.task.metric
            if self.images.task.optimizer and "lr" in self.settings:
                raise NasplugError("lr= is that of training's own optimiser: leave it to yours")
        self.space = space
        super().__init__(space, self._train, metric.maximize)
        self.most = int(self.settings.get("epochs", self.epochs.get(self.name, self.epochs[""])))
        self.batch = int(self.settings.get("batch", self.batches.get(self.name, BATCH)))
        self.seeds = int(self.settings.get("seeds", 1))
        whole = self.seeds == 1 and not self.settings.get("patience")
        self.fidelity = ("epochs", 1, self.most) if whole else None
        self.kept = {f"val_{metric.name}": "value", f"test_{metric.name}": "report"}
        self.reward, self.report = (
            wanted or own for wanted, own in zip((reward, report), self.kept, strict=True)
        )
        for wanted in (self.reward, self.report):
            if wanted not in self.kept:
                raise unknown("metric of training", wanted, self.kept)

    def try_out(self, space: Space) -> None:
        """NasplugError that says what does not fit, if networks cannot learn the data."""
        arch = space.runs if hasattr(space, "runs") else space.sample(1, self.seed)[0]

        def build() -> nn.Module:
            model = space.build(arch)
            self.images.check(model)  # which may draw random numbers, too
            return model

        try:
            initialise(build, self.seed)
        except NasplugError as error:
            raise NasplugError(f"{space.name} cannot learn these data: {error}") from error

    @cached_property
    def images(self) -> Images:
        """Read when they are first needed."""
        return datasets.load(self.name, self.seed)

    @classmethod
    def data(cls, space: Space) -> list[str]:
        if not (space.builds and space.sizes):
            return []
        here = Path(os.environ.get("NASPLUG_DATA") or "/nowhere")
        known = {
            "digits": True, "darcy": True, "japanese-vowels": folder("JapaneseVowels") is not None,
            "cifar10": (here / "cifar10" / "train.parquet").exists(),
        }  # fmt: skip
        return [name for name, there in known.items() if there and able(space, name)]

    @classmethod
    def missing(cls, space: Space, data: str) -> str:
        fixes = {
            "cifar10": "set NASPLUG_DATA to the folder that holds cifar10/train.parquet",
            "japanese-vowels": "pip install 'nasplug[series]'",
        }
        if data not in fixes or not (space.builds and space.sizes):
            return ""
        return f"to train on it, {fixes[data]}"

    def reach(self, low: int, high: int) -> None:
        if self.fidelity is None:
            raise NasplugError(
                "one whole training has a fidelity: leave it away, or seeds= and patience="
            )
        super().reach(low, high)

    @hookimpl
    def evaluate(self, search: Search | None, candidates: Trials) -> Trials:
        self.search, self.folder = search, candidates.checkpoints
        if "images" not in vars(self):
            self._say(f"reading {self.name}")
        super().evaluate(search, candidates)
        self._say("")
        return candidates

    @hookimpl
    def update(self, search: Search) -> None:
        """Of the weights that trials have kept, those of the best stay."""
        self.search, self.folder = search, search.checkpoints
        scores, states = search.trials.final_scores, search.trials.states
        kept = [(int(file.stem), file) for file in self.folder.glob(f"*{WEIGHTS}")]
        told = [(n, file) for n, file in kept if n < len(states) and states[n]]
        for _, file in sorted(told, key=lambda one: (-scores[one[0]], one[0]))[1:]:
            file.unlink()

    def _say(self, activity: str) -> None:
        if self.search is not None:
            self.search.activity = activity

    def _train(self, arch: dict[str, Any], trial: Trial) -> dict[str, Any]:
        epochs = self.fidelity[2] if self.fidelity else self.most
        until = trial.fidelity or epochs

        def begin(epoch: int) -> None:
            self._say(f"trial {trial.number}: epoch {epoch}/{until}")

        def report(epoch: int, value: float) -> bool:
            trial.report(value, epoch)
            return trial.should_prune()

        device = default_device()
        images = self.images.to(device)  # where batches are made without waiting for the host
        results: list[dict[str, Any]] = []
        models: list[nn.Module] = []
        for seed in range(self.seed, self.seed + self.seeds):
            model = initialise(lambda: self.space.build(trial.arch), seed).to(device)
            result = train(
                model, images, epochs, seed, until=until, checkpoint=trial.checkpoint,
                lr=self.settings.get("lr", LR), begin=begin,
                batch_size=self.batch, patience=int(self.settings.get("patience", 0)),
                half=bool(self.settings.get("amp", 0)),
                report=report if trial.pruner and not models else None,  # pruned by the first
            )  # fmt: skip
            if result["pruned"]:
                raise TrialPruned
            results.append(result)
            models.append(model)
        means = {name: float(np.mean([one[name] for one in results])) for name in results[0]}
        if until == epochs and self.folder:
            sign = 1 if self.maximize else -1
            values = [sign * one[self.kept[self.reward]] for one in results]
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            best = models[int(np.argmax(values))].cpu()
            save_weights(best, self.folder / f"{trial.number}{WEIGHTS}", trial.arch)
        return {
            "value": means[self.kept[self.reward]],
            "report": means[self.kept[self.report]],
            "cost": sum(one["seconds"] for one in results),
            "params": means["params"],
            "trained_epochs": means["trained"],
            **self._flops(trial),
        }

    def inherit(self, wanted: Archs) -> nn.Module:
        """The network as it was trained; NasplugError unless it is the best one, whose weights
        are kept."""
        for file in self.folder.glob(f"*{WEIGHTS}") if self.folder else ():
            return inherit_weights(self.space, wanted, file)
        raise NasplugError(
            f"no weights of {self.space.to_str(wanted)} were kept: build() and train it"
        )

    def _flops(self, trial: Trial) -> dict[str, float]:
        """{"flops": multiply-adds of the network that is trained}, where the space knows them."""
        try:
            return {"flops": float(self.space.flops(trial.arch[None])[0])}
        except NasplugError:
            return {}
