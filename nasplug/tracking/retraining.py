"""RetrainingSender: a retraining -> a child of its search's run, and the network in MLflow's
registry. Only the tracking process imports this module."""

from __future__ import annotations

from collections.abc import Mapping
from csv import DictReader
from itertools import accumulate
from typing import Any

import mlflow
import torch
from mlflow.entities import Metric
from mlflow.models import infer_signature

from nasplug.run.directory import read_json, stem_of
from nasplug.tracking import RETRAINING
from nasplug.tracking.sender import Sender, _finite, _line

CURVE, NETWORK = "curve.csv", "network.pt2"


class RetrainingSender(Sender):
    """Call `advance` until `done`."""

    artifacts = (RETRAINING, CURVE, "curve.png", "weights.safetensors")

    def _record(self) -> dict[str, Any]:
        return read_json(self.path / RETRAINING)

    def _title(self) -> str:
        return f"{self.path.parent.name}-retrain"

    def _experiment_name(self) -> str:
        return str(self._searched["problem"])

    @property
    def _searched(self) -> dict[str, Any]:
        found: dict[str, Any] = self._run["search"]["search"]
        return found

    def _anything(self) -> bool:
        return (self.path / CURVE).exists()

    def _tags(self) -> dict[str, str]:
        search = read_json(self.path.parent / "tracking.json")
        beside = search.get("run_id") if search.get("uri") == self._notes["uri"] else None
        return super()._tags() | ({"mlflow.parentRunId": str(beside)} if beside else {})

    # ---- what is sent

    def _epochs(self) -> list[dict[str, float]]:
        try:
            with (self.path / CURVE).open(newline="") as file:
                return [{k: float(x) for k, x in row.items()} for row in DictReader(file)]
        except (OSError, ValueError, TypeError):
            return []

    def _send(self) -> bool:
        """Send the next epochs; False if there are none."""
        rows, sent = self._epochs(), self._notes["sent"]
        elapsed = [*accumulate(row["seconds"] for row in rows)]
        metrics = [
            Metric(name, x, self._when(seconds), int(row["epoch"]))
            for row, seconds in zip(rows[sent:], elapsed[sent:], strict=True)
            for name, x in _finite(
                loss=row["loss"], lr=row["lr"], **{self._run["metric"]: row["test"]}
            ).items()
        ]
        if metrics:
            self._log(metrics)
            self._note(sent=len(rows), trials=len(rows), error="")
        return bool(metrics)

    def _params(self) -> dict[str, Any]:
        run = self._run
        about = {name: run[name] for name in ("recipe", "epochs", "seed")}
        data = {"data": run["data"]["name"], "data_digest": run["data"]["digest"]}
        settings = {name: x for name, x in run["settings"].items() if x not in (None, 0, 0.0)}
        return {**settings, **about, **data, "arch": run["search"]["choices"]}

    def _summarise(self, status: Mapping[str, Any]) -> None:
        result = self._record().get("result") or {}
        when = int(1000 * status["time"])
        whole = {name: x for name, x in result.items() if name in ("params", "seconds")}
        self._log([Metric(name, x, when, self._notes["sent"]) for name, x in whole.items()])
        if result and self._notes["model"] is None and (self.path / NETWORK).exists():
            self._note(model=self._register())
        self._end(status, self._text(status, result), when)

    def _register(self) -> str:
        """Log the network, with its signature and an example; where it is."""
        network = torch.export.load(self.path / NETWORK)
        args, kwargs = network.example_inputs
        if kwargs or len(args) != 1:
            return ""  # the format of MLflow's takes one tensor
        module, x = network.module(), args[0]
        with torch.no_grad():
            signature = infer_signature(x.numpy(), module(x).numpy())
        mlflow.set_tracking_uri(self.uri)
        with mlflow.start_run(self._notes["run_id"]):
            logged = mlflow.pytorch.log_model(
                module, name="network", signature=signature, input_example=x.numpy(),
                serialization_format="pt2", pip_requirements=[f"torch=={torch.__version__}"],
                registered_model_name=stem_of(self._searched["method"], self._searched["problem"]),
            )  # fmt: skip
        return str(logged.model_uri)

    def _text(self, status: Mapping[str, Any], result: Mapping[str, Any]) -> str:
        if not result:
            return super()._text(status, {})
        rows = [f"- {name}: **{value:.6g}**" for name, value in result.items()]
        return "\n".join([f"    {_line(self._run['search']['choices'])}", "", *rows])
