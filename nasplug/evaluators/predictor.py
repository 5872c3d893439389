"""A predictor as the evaluator: for spaces that nobody has a table of."""

from __future__ import annotations

import os
from pathlib import Path

from nasplug.analysis.predictors import XGBoost
from nasplug.errors import unknown
from nasplug.hookspecs import hookimpl
from nasplug.kernel.space import Space
from nasplug.kernel.subspace import Region
from nasplug.kernel.trial import Trials

SUFFIXES = (".json", ".ubj")


class PredictorEvaluator:
    """Scores archs by an XGBoost model of the space's features, wherever that comes from.

    ``SPACE/NAME`` is the file ``predictors/SPACE/NAME.json`` (or ``.ubj``) under the folder that
    ``NASPLUG_DATA`` names; `nasplug.analysis.XGBoost.save` writes one. Higher is better.
    """

    maximize = True
    free = apart = True

    def __init__(
        self,
        space: Space,
        data: str,
        reward: str | None = None,
        report: str | None = None,
        seed: int = 0,
    ) -> None:
        for wanted in (reward, report):
            if wanted not in (None, "predicted"):
                raise unknown("metric of a predictor", str(wanted), ("predicted",))
        self.reward = self.report = "predicted"
        self.region: Region = space
        files = [self.folder(space) / f"{data}{suffix}" for suffix in SUFFIXES]
        self._model = XGBoost(space, path=next(file for file in files if file.exists()))

    @staticmethod
    def folder(space: Space) -> Path:
        """Where the models of a space lie."""
        return Path(os.environ.get("NASPLUG_DATA", "")).expanduser() / "predictors" / space.name

    @classmethod
    def data(cls, space: Space) -> list[str]:
        if not os.environ.get("NASPLUG_DATA"):
            return []
        return sorted({f.stem for f in cls.folder(space).glob("*") if f.suffix in SUFFIXES})

    @classmethod
    def missing(cls, space: Space, data: str) -> str:
        if not os.environ.get("NASPLUG_DATA"):
            return "for a predictor of it, set NASPLUG_DATA to the folder that holds predictors/"
        return f"a predictor of it would be {cls.folder(space) / data}.json"

    @hookimpl
    def evaluate(self, candidates: Trials) -> Trials:
        rows = candidates.waiting
        if not len(rows):
            return candidates
        values = self._model.predict(candidates.archs[rows])
        return candidates.tell(rows, values=values, reports=values)
