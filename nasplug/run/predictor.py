"""A predictor as the evaluator: of what an earlier run has scored, or from a file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from nasplug.analysis.predictors import Predictor, XGBoost, predictor, rank_correlations
from nasplug.errors import NasplugError, unknown
from nasplug.hookspecs import hookimpl
from nasplug.kernel.problem import Evaluator
from nasplug.kernel.space import Space
from nasplug.kernel.subspace import Region
from nasplug.kernel.trial import Trials
from nasplug.run.earlier import finished, split

logger = logging.getLogger("nasplug")

SUFFIXES = (".json", ".ubj")
FEW = 100  # pairs: of fewer, the tenth held out says nothing
POOR = 0.5  # a Spearman correlation below which it warns


class PredictorEvaluator(Evaluator):
    """Scores archs by a model of the (arch, value) pairs of an earlier run; higher is better.

    option: the directory of a run, however that has scored, and if it is not to be XGBoost the
    `nasplug.analysis.predictor` that learns from it: ``RUN_DIR,model=dropout-mlp``. Nine tenths of
    the pairs are learned from, and `held_out` has the rank correlations on the others; the seed
    fixes which, and the model. Or the file of a model, as `nasplug.analysis.XGBoost.save` writes.
    """

    option = "RUN_DIR, RUN_DIR,model=PREDICTOR or FILE"
    maximize = True
    free = apart = True

    def __init__(
        self, space: Space, data: Any, reward: str | None = None, report: str | None = None,
        seed: int = 0, option: str = "",
    ) -> None:  # fmt: skip
        for wanted in (reward, report):
            if wanted not in (None, "predicted"):
                raise unknown("metric of a predictor", str(wanted), ("predicted",))
        self.reward = self.report = "predicted"
        self.region: Region = space
        self.held_out: dict[str, float] | None = None
        source, name = split("predictor", option, "model", "xgboost")
        if Path(source).suffix in SUFFIXES:
            self._model: Predictor = XGBoost(space, path=source)
        else:
            self._model = self._learned(predictor(name, space, seed), source, data)

    def _learned(self, model: Predictor, run_dir: str, data: Any) -> Predictor:
        """The model after it has learned from a run."""
        run = finished("predictor", run_dir, model.space).search
        if isinstance(data, str) and run.problem.data != data:
            raise NasplugError(f"{run_dir} scored archs on {run.problem.data}, not on {data}")
        if run.objectives is not None:
            raise NasplugError(f"{run_dir} had several objectives: a predictor is of one")
        full = (run.trials.fidelities == run.trials.fidelities.max()) & ~run.trials.repeats
        archs, values = run.trials.select(np.flatnonzero(full)).scored
        order = np.random.default_rng(model.seed).permutation(len(archs))
        held, rest = np.split(order, [len(order) // 10])
        model.fit(archs[rest], values[rest])
        if len(archs) >= FEW:
            self.held_out = rank_correlations(model.predict(archs[held]), values[held])
        rank = self.held_out["spearman"] if self.held_out else np.nan
        if not rank >= POOR:
            logger.warning(
                "a predictor of the %d pairs of %s may mislead a search: its Spearman correlation "
                "with those that it had not learned from is %s; score more archs there",
                len(archs), run_dir, f"{rank:.2f}" if self.held_out else "unknown, of so few",
            )  # fmt: skip
        return model

    @hookimpl
    def evaluate(self, candidates: Trials) -> Trials:
        rows = candidates.waiting
        if not len(rows):
            return candidates
        values = self._model.predict(candidates.archs[rows])
        return candidates.tell(rows, values=values, reports=values)
