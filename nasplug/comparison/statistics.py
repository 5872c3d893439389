"""What is said of numbers that were measured once per seed. Arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap, wilcoxon  # type: ignore[import-untyped]
from statsmodels.stats.multitest import multipletests

Floats = npt.NDArray[np.floating[Any]]

CONFIDENCE = 0.95
RESAMPLES = 2000


def interval(samples: Floats, statistic: Callable[..., Any] = np.mean) -> tuple[Floats, Floats]:
    """(..., n) measurements -> (...) the ends of the statistic's 95 % bootstrap interval over the
    last axis, by percentiles; NaN for a single measurement."""
    if samples.shape[-1] < 2:
        unknown = np.full(samples.shape[:-1], np.nan)
        return unknown, unknown
    found = bootstrap(
        (samples,), statistic, axis=-1, vectorized=True, n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(0),
        batch=max(1, 10**7 // samples.size),
    )  # fmt: skip
    return found.confidence_interval.low, found.confidence_interval.high


def paired(gains: Floats) -> dict[str, float]:
    """(n,) by how much one is better than the other, seed by seed -> mean gain with its interval,
    wins, ties and losses, and the p of Wilcoxon's signed-rank test; NaN for a single seed."""
    low, high = interval(gains)
    signs = np.sign(gains)
    if len(gains) < 2:
        p = np.nan
    elif not signs.any():  # they are the same, and scipy has no rank to go by
        p = 1.0
    else:
        p = float(wilcoxon(gains).pvalue)
    counts = {name: int((signs == s).sum()) for name, s in WORDS.items()}
    return {"gain": float(gains.mean()), "low": float(low), "high": float(high), **counts, "p": p}


WORDS = {"wins": 1, "ties": 0, "losses": -1}


def holm(p: Floats) -> Floats:
    """(n,) p-values of as many tests -> those that may be held against one level, by Holm's
    step-down correction; NaN stays."""
    known = np.isfinite(p)
    corrected = np.full(len(p), np.nan)
    if known.any():
        corrected[known] = multipletests(p[known], method="holm")[1]
    return corrected
