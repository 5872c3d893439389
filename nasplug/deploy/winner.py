"""The winner of a finished run: its arch, the data that it is for, and its trained network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from nasplug._version import __version__
from nasplug.errors import NasplugError
from nasplug.kernel.selection import Selection
from nasplug.kernel.space import Archs, Space
from nasplug.kernel.trial import Trial
from nasplug.nn import datasets
from nasplug.nn.data import Images, layout, of_layout
from nasplug.nn.datasets import Given
from nasplug.nn.weights import about_weights, inherit_weights
from nasplug.run import weights
from nasplug.run.directory import RunDirectory, Schema, read_json
from nasplug.run.load import load
from nasplug.run.problem import posed

FOLDER = "retrain"  # in a run directory
ABOUT = "retrain.json"
NONE = type(None)
RETRAINING: Schema = {
    "key": (str,), "search": (dict,), "arch": (list,), "space": (str,),
    "recipe": (str,), "settings": (dict,), "metric": (str,), "epochs": (int,), "seed": (int,),
    "data": {"name": (str,), "inputs": (dict,), "classes": (int,), "digest": (str,)},
    "environment": (dict,), "result": (dict, NONE),
}  # fmt: skip


@dataclass
class Winner:
    """The best arch of a run."""

    selection: Selection
    path: Path

    @classmethod
    def of(
        cls,
        run: Selection | Path | str,
        space: Space | None = None,
        model: Callable[[], Any] | str | None = None,
    ) -> Winner:
        """Of a run directory, or of what `search` or `load` returned; NasplugError if the run has
        not finished, or its space builds no networks."""
        selection = run if isinstance(run, Selection) else load(run, space=space, model=model)
        if selection.run_dir is None:
            raise NasplugError(
                "the result has no run directory, in which a retraining would lie: search with "
                "out=DIR, or out=True"
            )
        if not selection.best.space.builds:
            raise NasplugError(
                f"{selection.best.space.name} builds no networks: its archs are rows of a table, "
                "and there is nothing to train, to measure or to export"
            )
        return cls(selection, selection.run_dir)

    @property
    def best(self) -> Trial:
        return self.selection.best

    @cached_property
    def run(self) -> dict[str, Any]:
        """run.json."""
        return RunDirectory.open(self.path).run

    @property
    def folder(self) -> Path:
        """Where a retraining lies."""
        return self.path / FOLDER

    @property
    def retraining(self) -> dict[str, Any]:
        """retrain.json; {} if it was never retrained. NasplugError if it is another arch's."""
        about = read_json(self.folder / ABOUT, RETRAINING)
        if about and about["arch"] != self.best.arch.tolist():
            raise NasplugError(
                f"{self.folder} holds a retraining of another arch, {about['arch']}, than the "
                f"best, {self.best.arch.tolist()}: delete it"
            )
        return about

    def images(self, data: Any = None) -> tuple[Images, str]:
        """What to train and to test on, split as in the search, and its name: by default what was
        searched on. NasplugError if that is not known."""
        if data is None:
            data = self.run["data"] if isinstance(self.run["data"], str) else None
            if data is None and self.run["problem"]:
                data = self.run["scores"]["problem"].rpartition("/")[2]
        if data is None:
            raise NasplugError(
                f"{self.path} does not say by name what it trained on: give data=, or --data "
                "MODULE:NAME"
            )
        given = data if isinstance(data, Given) else self._given(data)
        images = datasets.load(given, self.run["options"]["seed"])
        if self.best.space.own and not isinstance(given.data, str | Images):
            images = images.as_given()
        return images, data if isinstance(data, str) else ""

    def _given(self, data: Any) -> Given:
        """Data with the loss, metric and optimiser of the search, which has to know their names."""
        own = {name: self.run[name] or None for name in ("loss", "metric", "optimizer")}
        for name, written in own.items():
            if written is True:
                raise NasplugError(
                    f"{self.path} was trained with {name} of yours: give it again, "
                    f"data=nasplug.nn.Given(data, {name}={name})"
                )
        found = posed(data, **own, direction=self.run["direction"])
        return found if isinstance(found, Given) else Given(found)

    def network(self) -> Network:
        """It as it was retrained, or else with the weights that scored it; NasplugError if it has
        neither."""
        about = self.retraining
        if about and about["result"] is None:
            raise NasplugError(
                f"the retraining in {self.folder} has not finished: "
                f"`nasplug retrain {self.path} --resume` goes on with it; or delete it"
            )
        return self.retrained(about) if about else self._inherited()

    def retrained(self, about: Mapping[str, Any]) -> Network:
        """It as a retrain.json tells of it, whose weights are there."""
        data, arch = about["data"], self.best.arch
        dense = data.get("dense", False)  # older ones do not say
        space = self.best.space.suited(of_layout(data["inputs"]), data["classes"], dense)
        model = inherit_weights(space, arch, self.folder / weights.FILE)
        told = {name: x for name, x in about.items() if name != "search"}
        return self._network(model, space, data["inputs"], data["digest"], told)

    def _inherited(self) -> Network:
        space = self.best.space
        model = weights.inherit(space, self.best.arch, self.path)
        digest = about_weights(self.path / weights.FILE).get("data", "")
        return self._network(model, space, _inputs(space), digest, None)

    def _network(
        self, model: nn.Module, space: Space, inputs: Any, digest: str, retraining: Any
    ) -> Network:
        about = {**self.record(), "retraining": retraining, "inputs": inputs, "data": digest}
        return Network(model, space, self.best.arch, inputs, about)

    def record(self) -> dict[str, Any]:
        """Where it comes from, for whoever finds a file of it."""
        run, best = self.run, self.best
        return {
            "nasplug": __version__,
            "search": {
                "run": self.path.name, "key": run["key"], "method": run["method"],
                "hyperparameters": run["hyperparameters"], "problem": run["scores"]["problem"],
                "seed": run["options"]["seed"], "time": run["environment"]["time"],
            },
            "trial": {
                "number": best.number, "value": best.value, "report": best.report_value,
                "reward": run["scores"]["reward"],
            },
            "space": best.space.name, "arch": best.arch.tolist(), "choices": str(best),
            "versions": run["environment"]["versions"],
        }  # fmt: skip


@dataclass
class Network:
    """A trained network, to evaluate. inputs: their layout. about: where it comes from."""

    model: nn.Module
    space: Space
    arch: Archs
    inputs: Mapping[str, Any]
    about: Mapping[str, Any]

    @property
    def example(self) -> Any:
        """Three inputs like those that it takes, at random."""
        return of_layout(self.inputs, 3)


def _inputs(space: Space) -> dict[str, Any]:
    """The layout of an input of a space's networks."""
    if shape := getattr(space, "shape", None):
        return {"shape": [*shape], "type": "float32"}
    if (example := getattr(space, "example", None)) is None:
        raise NasplugError(f"{space.name} does not say what inputs its networks take: example=")
    return layout(example)
