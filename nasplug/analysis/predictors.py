"""Predictors: the value of an arch from its encoding, learned from archs that were scored.

Archs in, values out: the encoding is the space's own `features`, with columns of the user's, such
as zero-cost proxies, beside them if wanted. All of them learn normal scores of the values
(`normal_scores`), and predict in that unit: the few disasters at the low end of a benchmark would
else dominate the squared error, and the good archs are what matters.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri  # type: ignore[import-untyped]
from scipy.stats import kendalltau, rankdata, spearmanr  # type: ignore[import-untyped]

from nasplug.errors import NasplugError, lacking, unknown
from nasplug.kernel.space import Archs, Space

Floats = npt.NDArray[np.floating[Any]]
Columns = Callable[[Archs], npt.ArrayLike]  # (n, d) -> (n,) or (n, k)

FEWEST = 5  # scored archs that anything can be learned from
BLOCK = 16_384  # archs encoded at a time, so that their encoding stays in the cache
FOLDS = 5
MEMBERS = 5  # of an ensemble
COUNTS = ("params", "flops")  # what a space may know of an arch


class Predictor(ABC):
    """``fit(archs, values)``, ``predict(archs)``, and ``uncertainty(archs)`` where it has one.

    extra: more columns beside the space's features, such as zero-cost proxies. They are learned as
        normal scores among the archs that are learned from; what is not finite is the lowest.
    """

    def __init__(self, space: Space, seed: int = 0, extra: Columns | None = None) -> None:
        self.space, self.seed, self.extra = space, seed, extra

    def fit(self, archs: Archs, values: npt.ArrayLike) -> Self:
        """Learn from (n, d) archs and their (n,) values, higher better."""
        values = np.asarray(values, dtype=np.float64)
        if len(values) < FEWEST:
            raise NasplugError(
                f"a predictor learns from at least {FEWEST} scored archs, got {len(values)}; raise "
                "the budget, or look why trials failed"
            )
        if not np.isfinite(values).all():
            raise NasplugError(
                f"a predictor cannot learn from {(~np.isfinite(values)).sum()} of {len(values)} "
                "values: they are not finite; leave those archs out"
            )
        if np.ptp(values) == 0:
            raise NasplugError(
                f"a predictor has nothing to learn: all {len(values)} values are {values[0]:g}; "
                "look at what scores them"
            )
        if self.extra is not None:
            self._scales = [_scale(column) for column in self._columns(self.space.canonical(archs))]
        self._fit(self._encode(archs), normal_scores(values))
        return self

    def predict(self, archs: Archs) -> Floats:
        """(n, d) -> (n,): normal scores, higher better."""
        archs = np.asarray(archs)
        blocks = [archs[start : start + BLOCK] for start in range(0, len(archs), BLOCK)] or [archs]
        if len(blocks) == 1:
            return self._predict(self._encode(archs))
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy and XGBoost release the GIL
            return np.concatenate(
                list(pool.map(lambda block: self._predict(self._encode(block)), blocks))
            )

    def _encode(self, archs: Archs) -> Floats:
        """Isomorphs are one arch to a predictor."""
        archs = self.space.canonical(archs)
        X = self.space.features(archs)
        if self.extra is None:
            return X
        pairs = zip(self._columns(archs), self._scales, strict=True)
        return np.column_stack([X, *(np.interp(column, *scale) for column, scale in pairs)])

    def _columns(self, archs: Archs) -> Floats:
        """(n, d) -> (k, n): what is beside the features."""
        assert self.extra is not None
        columns = np.asarray(self.extra(archs), np.float64)
        return np.where(np.isfinite(columns), columns, -np.inf).reshape(len(archs), -1).T

    def uncertainty(self, archs: Archs) -> Floats:
        """(n, d) -> (n,): the standard deviation of each prediction."""
        raise NasplugError(f"{type(self).__name__} knows no uncertainty; forest and mlp do")

    @abstractmethod
    def _fit(self, X: Floats, y: Floats) -> None: ...

    @abstractmethod
    def _predict(self, X: Floats) -> Floats: ...


class XGBoost(Predictor):
    """Gradient-boosted trees, as in Gopal et al. (IJCAI 2023) and in NAS-Bench-301.

    `path` opens a model that `save` (or XGBoost itself, on the space's features) wrote.
    """

    def __init__(
        self, space: Space, seed: int = 0, extra: Columns | None = None,
        *, path: Path | str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(space, seed, extra)
        self._xgboost = _optional("xgboost")
        if path is not None:
            self._open(Path(path))

    def _open(self, path: Path) -> None:
        if not path.exists():
            raise NasplugError(f"there is no predictor {path}; XGBoost.save writes one")
        try:
            self.model = self._xgboost.Booster(model_file=path)
        except (self._xgboost.core.XGBoostError, OSError, ValueError) as error:
            raise NasplugError(
                f"{path} is no XGBoost model: {str(error).strip().splitlines()[0]}"
            ) from None
        expected = self.space.features(self.space.sample(1, 0)).shape[1]
        if self.model.num_features() != expected:
            raise NasplugError(
                f"{path} predicts from {self.model.num_features()} features; an arch of "
                f"{self.space.name} has {expected}"
            )

    def save(self, path: Path | str) -> None:
        """Write the model to a .json or .ubj file."""
        if self.extra is not None:
            raise NasplugError("a model of columns beside the space's features is not for a file")
        self.model.save_model(path)

    def _fit(self, X: Floats, y: Floats) -> None:
        parameters = {
            "max_depth": 5, "eta": 0.05, "subsample": 0.8, "colsample_bytree": 0.5,
            "tree_method": "hist", "nthread": 1, "seed": self.seed,
        }  # fmt: skip
        self.model = self._xgboost.train(parameters, self._xgboost.DMatrix(X, y), 300)

    def _predict(self, X: Floats) -> Floats:
        return self.model.inplace_predict(X)


class _Ensemble(Predictor):
    """The mean of several members; what they differ by is the uncertainty."""

    members: list[Any]

    def _predict(self, X: Floats) -> Floats:
        return np.mean([member.predict(X) for member in self.members], axis=0)

    def uncertainty(self, archs: Archs) -> Floats:
        X = self._encode(archs)
        return np.std([member.predict(X) for member in self.members], axis=0)


class Forest(_Ensemble):
    """Extremely randomized trees of scikit-learn."""

    def _fit(self, X: Floats, y: Floats) -> None:
        forest = _optional("sklearn.ensemble").ExtraTreesRegressor(
            200, max_features=0.5, min_samples_leaf=2, random_state=self.seed
        )
        self.members = forest.fit(X, y).estimators_


class MLP(_Ensemble):
    """A few multilayer perceptrons of scikit-learn, each from its own initial weights."""

    def _fit(self, X: Floats, y: Floats) -> None:
        networks = _optional("sklearn.neural_network")
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(1):  # matrices this small lose by being shared out
            self.members = [
                networks.MLPRegressor(
                    hidden_layer_sizes=(64, 64), alpha=1e-2, learning_rate_init=3e-3, max_iter=200,
                    early_stopping=True, random_state=self.seed + member,
                ).fit(X, y)
                for member in range(MEMBERS)
            ]  # fmt: skip


class DropoutMLP(Predictor):
    """One perceptron of three layers with dropout, trained by SGD, that predicts a million archs in
    a second or two: Chen et al., "Automated Dominative Subspace Mining", their code.

    Shapes: (n, f) features -> (n, 128) -> (n, 128) -> (n,). Batches of 256, 200 epochs.
    """

    layers: list[tuple[Floats, Floats]]  # a matrix and what is added behind it

    def _fit(self, X: Floats, y: Floats) -> None:
        torch, training = _optional("torch"), _optional("nasplug.nn.training")
        nn, width = torch.nn, 128
        with training.fixed_threads(1), training.seeded(self.seed):
            net = nn.Sequential(
                nn.Linear(X.shape[1], width), nn.ReLU(), nn.Dropout(0.5),
                nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.5),
                nn.Linear(width, 1),
            )  # fmt: skip
            optimiser = torch.optim.SGD(
                net.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=3e-5
            )
            batches = -(-len(X) // 256)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 200 * batches)
            inputs, targets = (torch.tensor(x, dtype=torch.float32) for x in (X, y))
            for _ in range(200):
                for rows in torch.randperm(len(X)).tensor_split(batches):
                    loss = nn.functional.mse_loss(net(inputs[rows])[:, 0], targets[rows])
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    schedule.step()
        self.layers = [
            (layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy())
            for layer in net if isinstance(layer, nn.Linear)
        ]  # fmt: skip

    def _predict(self, X: Floats) -> Floats:
        *hidden, (last, offset) = self.layers
        for matrix, bias in hidden:
            X = X @ matrix
            X += bias
            np.maximum(X, 0, out=X)
        return (X @ last + offset)[:, 0]


PREDICTORS: dict[str, type[Predictor]] = {
    "xgboost": XGBoost, "forest": Forest, "mlp": MLP, "dropout-mlp": DropoutMLP,
}  # fmt: skip


def predictor(name: str, space: Space, seed: int = 0, extra: Columns | None = None) -> Predictor:
    """A predictor by name, not fitted yet: ``xgboost``, or, with what the space knows of an arch
    beside its features, ``xgboost+params+flops``."""
    name, *counts = str(name).split("+")
    if name not in PREDICTORS:
        raise unknown("predictor", name, PREDICTORS)
    for count in counts:
        if count not in COUNTS:
            raise unknown(f"feature for {name}+", count, COUNTS)
        getattr(space, count)(space.sample(1, 0))  # or an error, before anything is scored
    columns: list[Columns] = [getattr(space, count) for count in counts]
    columns += [] if extra is None else [extra]

    def together(archs: Archs) -> Floats:
        return np.column_stack([np.asarray(column(archs)) for column in columns])

    return PREDICTORS[name](space, seed, together if columns else None)


def _scale(column: Floats) -> tuple[Floats, Floats]:
    """(n,) -> its finite values in order, and their normal scores."""
    known = np.sort(column[np.isfinite(column)])
    if not len(known):
        raise NasplugError("a column beside the features is not finite for any arch: leave it")
    return known, normal_scores(known)


def normal_scores(values: npt.ArrayLike) -> Floats:
    """(n,) values -> (n,): what their ranks would be in a sample of a standard normal (Blom)."""
    ranks = rankdata(values)  # ties share theirs
    return ndtri((ranks - 3 / 8) / (len(ranks) + 1 / 4))


def rank_correlations(predicted: npt.ArrayLike, values: npt.ArrayLike) -> dict[str, float]:
    """Spearman's rho and Kendall's tau-b."""
    return {
        "spearman": float(spearmanr(predicted, values).statistic),
        "kendall": float(kendalltau(predicted, values).statistic),
    }


def held_out(predictor: Predictor, archs: Archs, values: npt.ArrayLike) -> dict[str, float]:
    """Rank correlations on archs that were not learned from, by cross-validation.

    The predictor itself, fitted or not, stays as it is.
    """
    predictor, values = copy(predictor), np.asarray(values, dtype=np.float64)
    fold = np.random.default_rng(predictor.seed).permutation(len(values)) % FOLDS
    predicted = np.empty(len(values))
    for k in range(FOLDS):
        predictor.fit(archs[fold != k], values[fold != k])
        predicted[fold == k] = predictor.predict(archs[fold == k])
    return rank_correlations(predicted, values)


def _optional(module: str) -> Any:
    """A library that only some predictors need."""
    try:
        return import_module(module)
    except ImportError as error:
        raise lacking("the predictor", error) from None
