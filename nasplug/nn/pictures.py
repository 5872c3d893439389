"""Pictures of a supernet's search: what each epoch selected, and what is known of each edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nasplug.kernel.search import Search

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#2f6db5", "#d9822b", "#4c9f70", "#9b59b6", "#c0392b")
GRAY = "#6b7280"
FEW = 5  # epochs, below which a line alone would show little


def draw_epochs(search: Search, figure: Figure) -> None:
    """Accuracy of the arch that each epoch selected; how much the selection moves and idles."""
    trials = search.trials
    epochs = np.arange(1, len(trials) + 1)
    evaluator = search.problem.evaluator
    figure.set_size_inches(8, 5)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    reports = {evaluator.report: trials.reports}
    reports |= {name: x for name, x in trials.metrics.items() if name.endswith(evaluator.report)}
    reports = {name: x for name, x in reports.items() if np.isfinite(x).any()}
    if len(reports) > 1:  # every criterion is there by its own name
        reports.pop(evaluator.report)
    right = top.twinx() if reports else top
    marker = "o" if len(epochs) < FEW else ""
    lines = top.plot(
        epochs, trials.values, color=GRAY, lw=1.5, marker=marker, label=evaluator.reward
    )
    top.set_ylabel(evaluator.reward)
    for color, (name, values) in zip(COLORS, reports.items(), strict=False):
        lines += right.plot(
            epochs, values, color=color, lw=2, alpha=0.85, marker=marker, label=name
        )
    if reports:
        right.set_ylabel(f"{evaluator.report}, looked up")
    for color, name, label in (
        (COLORS[4], "idle_share", "edges that idle"),
        (COLORS[0], "distance", "cosine distance from the arch before"),
    ):
        if name in trials.metrics:
            y = trials.metrics[name]
            lines += bottom.step(
                epochs, y, where="mid", color=color, lw=1.2, marker=marker, label=label
            )
    bottom.set(xlabel="epoch", ylim=(-0.05, 1.05))
    bottom.locator_params("x", integer=True)
    for ax in (top, bottom, right):
        ax.spines["top"].set_visible(False)
        ax.grid(alpha=0.15)
    title = f"{search.method_name} on {search.problem.name}: the arch after each epoch"
    top.set_title(title, loc="left", weight="bold", fontsize=11)
    bottom.legend(
        handles=lines, loc="upper center", bbox_to_anchor=(0.5, -0.5), ncols=3, frameon=False,
        fontsize=8,
    )  # fmt: skip


def draw_edges(
    edges: Sequence[str],
    choices: Sequence[Sequence[str]],
    quantities: Mapping[str, npt.NDArray[np.float64]],
    figure: Figure,
) -> None:
    """A panel per edge: of each choice the share that it has of each quantity (D, O)."""
    figure.set_size_inches((10, 5) if len(edges) <= 6 else (18, 11))
    columns = 3 if len(edges) <= 6 else 7
    axes = figure.subplots(-(-len(edges) // columns), columns, sharey=True, squeeze=False)
    width = 0.8 / len(quantities)
    for i, ax in enumerate(axes.flat):
        if i >= len(edges):
            ax.axis("off")
            continue
        x = np.arange(len(choices[i]))
        for j, (name, values) in enumerate(quantities.items()):
            share = values[i, : len(x)] / max(values[i, : len(x)].sum(), 1e-12)
            ax.bar(x + (j - 1) * width, share, width, color=COLORS[j], label=name)
            ax.plot(
                x[share.argmax()] + (j - 1) * width, share.max() + 0.03, "v", color=COLORS[j], ms=4
            )
        ax.set_title(edges[i], fontsize=8)
        words = [word.replace("_connect", "").replace("nor_", "") for word in choices[i]]
        short = [word.replace("_", " ") for word in words]
        below = i >= len(edges) - columns or choices[i] != choices[0]
        ax.set_xticks(x, short if below else [], rotation=90, fontsize=7)
        ax.tick_params(axis="y", labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), frameon=False, fontsize=9)
    figure.subplots_adjust(hspace=0.3, wspace=0.12, top=0.88)
