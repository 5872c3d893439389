"""Quality of a region of a space, against the whole: what shrinking a space is judged by.

Archs of a region are queried (all of them if they are few), and everything is said of those; a
mean or a probability that rests on a sample comes with a bootstrap interval.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

from nasplug.analysis.pictures import draw_picture
from nasplug.analysis.predictors import Predictor, held_out, rank_correlations
from nasplug.errors import NasplugError
from nasplug.files import replacing
from nasplug.kernel.problem import Problem
from nasplug.kernel.search import Search
from nasplug.kernel.space import ENUMERABLE, Archs, Seed, Space
from nasplug.kernel.subspace import ArchSet, Mask, Region

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.floating[Any]]
Interval = tuple[float, float]
Cost = tuple[str, Callable[[Archs], Floats]]  # "flops" or "params", and archs -> theirs

GOOD = 0.99  # well-performing: better than this quantile of the whole space
PATHS = 20  # n of the shrink index
SHARE = 0.2  # its k / n, as in the paper
BINS = 20  # of the range of FLOPs or params
RESAMPLES = 1000
PAIRS = 1000  # archs of which every pair is looked at for the largest distance
COSTS = {"flops": "multiply-adds", "params": "parameters"}
GRAY, COLORS = "#9aa3ad", ("#2f6db5", "#d9822b", "#4c9f70", "#8e5ea2", "#c0392b")


# ---- the metrics


def at_least(p: float, n: int = PATHS, share: float = SHARE) -> float:
    """P(at least ``share * n`` of n uniform samples are well-performing), each with chance p."""
    k = int(np.ceil(share * n - 1e-9))
    return float(stats.binom.sf(k - 1, n, p))  # Theorem 1: sum_{j >= k} C(n, j) p^j (1 - p)^(n - j)


def shrink_index(p_shrunk: float, p_whole: float, n: int = PATHS, share: float = SHARE) -> float:
    """How much likelier enough good archs are in the shrunk space; eq. 2.

    Comparable only for one space, data set and threshold of what is good.
    """
    return at_least(p_shrunk, n, share) - at_least(p_whole, n, share)


def bootstrap(values: Floats, seed: int = 0) -> Interval:
    """The 95 % percentile interval of the mean of (n,) values."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="percentile", batch=100, rng=seed
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def edf_area(errors: Floats, low: float, high: float) -> float:
    """The area under the error EDF between two errors, 1 at best."""
    return float(np.mean(high - np.clip(errors, low, high)) / (high - low))


def diversity(space: Space, archs: Archs, seed: Seed = 0) -> tuple[float, float]:
    """The mean and the maximum cosine distance of two different archs, by their features. The
    maximum is the diversity of Gopal et al., IJCAI 2023, Table 7; the mean tells small sets apart.

    The mean is of all pairs, the maximum of those among at most `PAIRS` archs.
    """
    if len(archs) < 2:
        return 0.0, 0.0
    X = space.features(archs).astype(np.float64)
    X = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)
    n = len(X)
    mean = 1 - ((X.sum(0) ** 2).sum() - n) / (n * (n - 1))  # over pairs, without listing them
    some = X[np.random.default_rng(seed).permutation(n)[:PAIRS]]
    return float(mean), float(1 - (some @ some.T).min())


def coverage(costs: Floats, whole: Floats) -> float:
    """Of the bins of equal width that the whole space's costs fall into, the share that is hit."""
    edges = np.linspace(whole.min(), whole.max(), BINS + 1)[1:-1]
    everywhere = np.unique(np.searchsorted(edges, whole))
    return float(np.isin(everywhere, np.searchsorted(edges, costs)).mean())


# ---- a region, queried


@dataclass
class Queried:
    """Archs of a region with what is known of them; `complete` if these are all it has."""

    region: Region
    archs: Archs
    values: Floats
    costs: Floats | None
    complete: bool

    @property
    def size(self) -> int:
        """How many archs the region has; only the valid ones count, of a mask if all are known."""
        if isinstance(self.region, Mask) and self.complete:
            return len(self.archs)
        return self.region.count if isinstance(self.region, Space) else self.region.size


def query(
    region: Region,
    value: Callable[[Archs], npt.ArrayLike],
    cost: Callable[[Archs], Floats] | None = None,
    n: int = 2000,
    seed: Seed = 0,
) -> Queried:
    """Query n archs of a region, or all of it if it has no more; unknown values are left out."""
    if isinstance(region, ArchSet) and region.size <= n:
        archs, complete = region.archs, True
    elif isinstance(region, Space | Mask) and region.size <= min(n, ENUMERABLE):
        archs, complete = region.all(), True
    else:
        archs, complete = region.sample(n, seed), False
    values = np.asarray(value(archs), dtype=np.float64)
    known = np.isfinite(values)
    if not known.any():
        raise NasplugError(f"no value is known in {region.describe()}")
    archs = archs[known]
    return Queried(region, archs, values[known], cost(archs) if cost else None, complete)


def compare(whole: Queried, others: Mapping[str, Queried]) -> list[dict[str, Any]]:
    """A row of metrics per region, the whole space first; of values, higher is better."""
    threshold = float(np.quantile(whole.values, GOOD))
    high = max(float(part.values.max()) for part in (whole, *others.values()))
    p_whole = float((whole.values > threshold).mean())
    return [
        {"space": name, **_row(part, whole, threshold, high, p_whole)}
        for name, part in {"whole": whole, **others}.items()
    ]


def _row(
    part: Queried, whole: Queried, threshold: float, high: float, p_whole: float
) -> dict[str, Any]:
    good = (part.values > threshold).astype(float)
    mean_distance, max_distance = diversity(part.region.space, part.archs)
    test = stats.ks_2samp(part.values, whole.values)
    errors, worst = high - part.values, high - float(whole.values.min())
    interval = None if part.complete else bootstrap(part.values)
    chance = None if part.complete else bootstrap(good)
    return {
        "size": part.size,
        "reduction": whole.size / part.size,
        "queried": len(part.values),
        "mean": float(part.values.mean()),
        "mean_interval": interval,
        "max": float(part.values.max()),
        "good": float(good.mean()),
        "shrink_index": shrink_index(float(good.mean()), p_whole),
        "shrink_index_interval": chance and tuple(shrink_index(p, p_whole) for p in chance),
        "edf_area": edf_area(errors, 0.0, worst) if worst else 1.0,
        "ks": float(test.statistic),
        "ks_p": float(test.pvalue),
        "mean_distance": mean_distance,
        "max_distance": max_distance,
        "coverage": None
        if part.costs is None or whole.costs is None
        else coverage(part.costs, whole.costs),
    }


# ---- values and costs of a problem


def reports(problem: Problem) -> Callable[[Archs], Floats]:
    """archs -> their report metric by the problem's evaluator (their reward if it has none),
    higher better."""

    def value(archs: Archs) -> Floats:
        trials = problem.score(archs)
        known = np.where(np.isnan(trials.reports), trials.values, trials.reports)
        return known if problem.maximize else -known

    return value


def costs(problem: Problem) -> Cost | None:
    """The FLOPs of a problem's archs, or their params where FLOPs are unknown; None if both are."""
    space = problem.space

    def by_space(name: str) -> Callable[[Archs], Floats]:
        return lambda archs: np.asarray(getattr(space, name)(archs), dtype=np.float64)

    def by_score(name: str) -> Callable[[Archs], Floats]:
        return lambda archs: np.asarray(problem.score(archs).metrics[name])

    arch = space.sample(1, 0)
    measured = problem.score(arch).metrics if problem.free else ()
    for name in ("flops", "params"):
        try:
            by_space(name)(arch)
        except NasplugError:
            if name in measured:
                return name, by_score(name)
        else:
            return name, by_space(name)
    return None


# ---- the report


def report(
    space: Space,
    regions: Mapping[str, Region],
    value: Callable[[Archs], npt.ArrayLike],
    cost: Cost | None,
    unit: str,
    file: Path,
    n: int = 20_000,
    seed: int = 0,
    **more: Any,
) -> list[dict[str, Any]]:
    """Query the whole space and some regions of it; write `file`, with `more`, and pictures."""
    name, of_archs = cost or (None, None)
    parts = {
        title: query(region, value, of_archs, n, seed)
        for title, region in {"whole": space, **regions}.items()
    }
    rows = compare(parts["whole"], {title: parts[title] for title in regions})
    file.parent.mkdir(parents=True, exist_ok=True)
    draw_picture(file.with_name("edf.png"), lambda figure: draw_edf(parts, unit, figure))
    draw_picture(file.with_name("diversity.png"), lambda figure: draw_diversity(parts, figure))
    if name:
        draw_picture(
            file.with_name("coverage.png"),
            lambda figure: draw_coverage(parts, name, unit, figure),
        )
    found = {"space": space.name, "judged_by": unit, "coverage_of": name, "spaces": rows, **more}
    with replacing(file) as partial:
        partial.write_text(json.dumps(found, indent=2) + "\n")
    return rows


def report_search(
    search: Search, subspace: Region, model: Predictor, given: bool = False
) -> Callable[[Path], None]:
    """What writes space.json and its pictures, of a search that shrinks the space by a model.

    Archs are judged by the problem's report where that costs nothing, else by the model; the
    model by its rank correlations on scored archs, unless it was given after cross-validation.
    """

    def write(file: Path) -> None:
        archs, values = search.trials.scored
        try:
            ranks = (
                rank_correlations(model.predict(archs), values)
                if given
                else held_out(model, archs, values)
            )
        except NasplugError:  # too few archs to hold some of them back
            ranks = None
        problem, free = search.problem, search.problem.free
        report(
            search.space, {search.method_name: subspace},
            reports(problem) if free else model.predict, costs(problem),
            problem.report if free else "predicted score", file, predictor=ranks,
        )  # fmt: skip

    return write


# ---- pictures


def draw_edf(parts: Mapping[str, Queried], unit: str, figure: Figure) -> None:
    """The share of archs whose error (the distance to the best) is at most x, per region."""
    figure.set_size_inches(6.5, 4.5)
    ax = figure.subplots()
    best = max(part.values.max() for part in parts.values())
    right = best - np.quantile(next(iter(parts.values())).values, 0.1) or 1.0
    for label, color, part in _styled(parts):
        below = stats.ecdf(best - part.values).cdf
        errors = below.quantiles
        x, y = [0.0, *errors, max(right, errors[-1])], [0.0, *below.probabilities, 1.0]
        ax.step(x, y, where="post", color=color, lw=2, label=label)
    ax.set(
        xlim=(0, right), ylim=(0, 1.02),
        xlabel=f"error: {unit} below the best", ylabel="share of archs",
    )  # fmt: skip
    _finish(ax)


def draw_coverage(parts: Mapping[str, Queried], cost: str, unit: str, figure: Figure) -> None:
    """Cost against value, per region."""
    figure.set_size_inches(6.5, 4.5)
    ax = figure.subplots()
    for label, color, part in _styled(parts):
        if part.costs is not None:
            ax.scatter(
                part.costs / 1e6, part.values, s=7, color=color, alpha=0.4, linewidths=0,
                label=label,
            )  # fmt: skip
    low = min(float(np.quantile(part.values, 0.1)) for part in parts.values())
    high = max(float(part.values.max()) for part in parts.values())
    margin = 0.05 * (high - low) or 1.0
    ax.set(xlabel=f"{COSTS[cost]}, millions", ylabel=unit, ylim=(low - margin, high + margin))
    _finish(ax)


def draw_diversity(parts: Mapping[str, Queried], figure: Figure) -> None:
    """The archs on the two principal components of the whole space's features."""
    figure.set_size_inches(6.5, 4.5)
    ax = figure.subplots()
    whole = next(iter(parts.values()))
    assert isinstance(whole.region, Space)
    X = whole.region.features(whole.archs)
    axes = np.linalg.svd(X - X.mean(0), full_matrices=False)[2][:2]
    for label, color, part in _styled(parts):
        x, y = axes @ (whole.region.features(part.archs) - X.mean(0)).T
        ax.scatter(x, y, s=9, color=color, alpha=0.5, linewidths=0, label=label)
    ax.set(xlabel="first principal component of the features", ylabel="second")
    _finish(ax)


def _styled(parts: Mapping[str, Queried]) -> Iterator[tuple[str, str, Queried]]:
    """(label, color, part) of each region; the whole space, the first, is gray."""
    for (name, part), color in zip(parts.items(), chain([GRAY], cycle(COLORS)), strict=False):
        size = f"{part.size:,}" if part.size < 10**7 else f"{part.size:.1e}"
        yield f"{name} ({size})", color, part


def _finish(ax: Any) -> None:
    ax.grid(alpha=0.2)
    ax.spines[["top", "right"]].set_visible(False)
    legend = ax.legend(  # below: the data may be anywhere
        loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False, markerscale=2.5
    )
    for handle in legend.legend_handles:
        handle.set_alpha(1)
