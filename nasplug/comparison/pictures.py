"""The pictures of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nasplug.comparison.result import LEVEL, Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's, which the colour-blind tell apart, and some more.
COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c564b", "#7f7f7f",
    "#bcbd22", "#000000",
)  # fmt: skip
AXES = {
    "trial": "trials", "cost": "cost in seconds, as the benchmark states it", "seconds": "seconds"
}  # fmt: skip


def color(index: int) -> str:
    """Of a method, by where it stands among all."""
    return COLORS[index % len(COLORS)]


def draw_curves(comparison: Comparison, figure: Figure) -> None:
    """A row per problem: what the incumbent reports, and its reward, mean and 95 % band."""
    problems, bands = comparison.problems, comparison.bands()
    figure.set_size_inches(11, 0.6 + 3.4 * len(problems))
    grid = figure.subplots(len(problems), 2, squeeze=False)
    for axes, problem in zip(grid, problems, strict=True):
        for ax, column in zip(axes, ("report", "value"), strict=True):
            rows = bands[bands.problem == problem]
            for index, method in enumerate(comparison.methods):
                band = rows[rows.method == method]
                kind: dict[str, Any] = {"color": color(index)}
                ax.plot(band.x, band[column], lw=1.8, label=_plain(method), **kind)
                low, high = band[f"{column}_low"], band[f"{column}_high"]
                ax.fill_between(band.x, low, high, alpha=0.15, lw=0, **kind)
            ax.set(xlabel=AXES[comparison.axis], ylabel=comparison.label(problem, column))
            _window(ax, rows[column].to_numpy(), comparison.problem(problem)["maximize"])
            _tidy(ax)
        axes[0].set_title(_plain(problem), loc="left", weight="bold")
    _legend(figure, grid[0, 0], len(comparison.methods))


def draw_final(comparison: Comparison, figure: Figure) -> None:
    """What each search has selected: a box per method, and a dot per seed."""
    problems, n = comparison.problems, len(comparison.methods)
    figure.set_size_inches(9, 0.6 + (0.8 + 0.38 * n) * len(problems))
    axes = figure.subplots(len(problems), 1, squeeze=False)[:, 0]
    rng = np.random.default_rng(0)
    for ax, problem in zip(axes, problems, strict=True):
        final = comparison.final(problem).to_numpy()
        for index, column in enumerate(final.T):
            ax.boxplot(
                column[np.isfinite(column)], positions=[index], widths=0.6, showfliers=False,
                orientation="horizontal", medianprops={"color": color(index), "lw": 2},
            )  # fmt: skip
            jitter = index + rng.uniform(-0.18, 0.18, len(column))
            ax.scatter(column, jitter, s=9, color=color(index), alpha=0.5, linewidths=0)
        ax.set_yticks(range(n), [_plain(name) for name in comparison.methods])
        ax.set_ylim(n - 0.5, -0.5)
        ax.set_xlabel(comparison.label(problem))
        ax.set_title(_plain(problem), loc="left", weight="bold")
        _tidy(ax)
    figure.subplots_adjust(hspace=0.55)


def draw_critical_differences(comparison: Comparison, figure: Figure) -> None:
    """Mean ranks over the problems; what the Nemenyi test does not tell apart is joined (Demšar,
    Statistical comparisons of classifiers over multiple data sets, JMLR 2006)."""
    from scikit_posthocs import critical_difference_diagram, posthoc_nemenyi_friedman

    figure.set_size_inches(9, 1.2 + 0.3 * len(comparison.methods))
    ax, ranks = figure.add_subplot(), comparison.ranks()
    names = {name: _plain(name) for name in comparison.methods}
    p = posthoc_nemenyi_friedman(comparison.means().to_numpy())
    p.index = p.columns = ranks.index
    colors = {names[name]: color(i) for i, name in enumerate(comparison.methods)}
    critical_difference_diagram(
        ranks.rename(names), p.rename(index=names, columns=names), alpha=LEVEL, ax=ax,
        color_palette=colors,
    )  # fmt: skip
    ax.set_title(
        f"mean rank on {len(comparison.problems)} problems, 1 is best; joined: not told apart "
        f"(Nemenyi, {LEVEL:.0%})",
        loc="left", fontsize=10,
    )  # fmt: skip


def _window(ax: Any, means: Any, maximize: bool) -> None:
    """A range in which the end is told apart: the steep first moments may lie outside of it."""
    finite = means[np.isfinite(means)]
    if len(finite):
        low, high = np.quantile(finite, (0.05, 1)) if maximize else np.quantile(finite, (0, 0.95))
        margin = 0.08 * (high - low) or 0.01 * abs(high) or 1.0
        ax.set_ylim(low - margin, high + margin)


def _legend(figure: Figure, ax: Any, n: int) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.tight_layout()
    figure.legend(
        handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=min(n, 4),
        frameon=False,
    )  # fmt: skip


def _tidy(ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.2)
    ax.set_axisbelow(True)


def _plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
