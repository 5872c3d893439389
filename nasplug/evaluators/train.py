"""Stand-alone training: each arch is built, trained from scratch and scored on real data."""

from __future__ import annotations

import inspect
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nasplug.errors import NasplugError, unknown
from nasplug.evaluators.function import FunctionEvaluator
from nasplug.space import Space
from nasplug.trial import Trial, TrialPruned

if TYPE_CHECKING:
    from nasplug.nn.data import Images


class TrainEvaluator(FunctionEvaluator):
    """The reward is the validation accuracy, the report the test accuracy, both in %.

    The split and the training are fixed by the search's seed, so an arch has one value in a
    search. For spaces whose ``build`` takes ``in_channels`` (image networks). Needs torch.
    """

    # (space, data) -> network size and epochs; elsewhere the space's own size, 12 epochs.
    # Smaller cells train faster on the digits, but all alike: the rank correlation between two
    # seeds is 0.81 at N=3 and at most 0.63 at N=1 (30 random archs).
    recipes: ClassVar[dict[tuple[str, str], dict[str, int]]] = {
        ("nb201", "digits"): {"C": 8, "N": 3, "epochs": 5},
        ("darts", "digits"): {"C": 8, "layers": 4, "epochs": 5},
    }

    def __init__(
        self,
        space: Space,
        data: str,
        reward: str | None = None,
        report: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(space, self._train)
        self.reward, self.report = reward or "val_acc", report or "test_acc"
        for wanted in (self.reward, self.report):
            if wanted not in ("val_acc", "test_acc"):
                raise unknown("metric of training", wanted, ("val_acc", "test_acc"))
        self.space, self.seed = space, seed
        self.sizes = dict(self.recipes.get((space.name, data), {}))
        self.epochs = self.sizes.pop("epochs", 12)
        self.name = data
        try:
            from nasplug.nn import data as _  # noqa: F401 - whether it can be imported
        except ImportError as error:
            raise NasplugError(
                f"training needs {error.name}: pip install 'nasplug[torch,predictors]'"
            ) from None

    @cached_property
    def images(self) -> Images:
        """Read when they are first needed: methods that train a supernet have their own."""
        from nasplug.nn import data

        if self.name == "digits":
            return data.digits(self.seed)
        return data.cifar10(os.environ["NASPLUG_DATA"])

    @classmethod
    def data(cls, space: Space) -> list[str]:
        if "in_channels" not in inspect.signature(space.build).parameters:
            return []
        folder = os.environ.get("NASPLUG_DATA")
        images = folder and (Path(folder) / "cifar10" / "train.parquet").exists()
        return ["digits", "cifar10"] if images else ["digits"]

    @classmethod
    def missing(cls, space: Space, data: str) -> str:
        if data != "cifar10" or "in_channels" not in inspect.signature(space.build).parameters:
            return ""
        return "to train on it, set NASPLUG_DATA to the folder that holds cifar10/train.parquet"

    def _train(self, arch: dict[str, Any], trial: Trial) -> dict[str, Any]:
        import torch

        from nasplug.nn.training import initialise, train

        def build() -> torch.nn.Module:
            return self.space.build(  # type: ignore[call-arg]  # its space takes in_channels
                trial.arch,
                num_classes=self.images.num_classes,
                in_channels=self.images.in_channels,
                **self.sizes,
            )

        def report(epoch: int, accuracy: float) -> bool:
            trial.report(accuracy, epoch)
            return trial.should_prune()

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = initialise(build, self.seed).to(device)
        result = train(
            model, self.images, self.epochs, self.seed, report=report if trial.pruner else None
        )
        if result["pruned"]:
            raise TrialPruned
        scores = {"val_acc": result["value"], "test_acc": result["report"]}
        return {
            "value": scores[self.reward],
            "report": scores[self.report],
            "cost": result["seconds"],
            "params": result["params"],
            **self._flops(trial),
        }

    def _flops(self, trial: Trial) -> dict[str, float]:
        """{"flops": multiply-adds of the network that is trained}, where the space knows them."""
        images = self.images
        try:
            flops = self.space.flops(  # type: ignore[call-arg]
                trial.arch[None],
                num_classes=images.num_classes,
                in_channels=images.in_channels,
                resolution=images.resolution,
                **self.sizes,
            )
        except (TypeError, NasplugError):
            return {}
        return {"flops": float(flops[0])}
