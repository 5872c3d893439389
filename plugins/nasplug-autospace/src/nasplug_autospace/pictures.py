"""Pictures of a learned space: how fitness grew, and the cells that are in most layers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from nasplug import Layered, Search
from nasplug.nn import COLORS, GRAY
from nasplug.spaces import OpenCells

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FREQUENT = 10


def draw_fitness(search: Search, figure: Figure) -> None:
    """Best, median and worst of the populations, mean over layers; and the training loss."""
    figure.set_size_inches(8, 4)
    metrics = search.trials.metrics
    epochs = np.arange(1, len(search.trials) + 1)
    ax = figure.add_subplot()
    ax.fill_between(
        epochs, metrics["fitness_worst"], metrics["fitness_best"], color=COLORS[0], alpha=0.15, lw=0
    )
    lines = ax.plot(epochs, metrics["fitness_best"], color=COLORS[0], lw=2, label="fittest")
    lines += ax.plot(epochs, metrics["fitness_median"], color=COLORS[0], lw=1, label="median")
    right = ax.twinx()
    lines += right.plot(epochs, metrics["loss"], color=COLORS[1], lw=1.5, label="training loss")
    guided = search.method.guided * search.method.total
    if search.method.reference != "none" and guided < len(epochs):
        ax.axvline(guided + 0.5, color=GRAY, ls=":", lw=1.2)
        ax.text(guided + 0.6, ax.get_ylim()[0], "without reference", fontsize=8, va="bottom")
    ax.set(xlabel="epoch", ylabel="fitness, mean over layers")
    ax.locator_params("x", integer=True)
    right.set_ylabel("loss", color=COLORS[1])
    ax.set_title(f"{search.method_name} on {search.problem.name}", loc="left", weight="bold")
    for axis in (ax, right):
        axis.spines["top"].set_visible(False)
    ax.legend(
        handles=lines, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False
    )


def draw_frequent(space: Layered, figure: Figure) -> None:
    """The cells that most layers have among their fittest (Fig. 4)."""
    figure.set_size_inches(10, 5)
    outer = space.space
    assert isinstance(outer, OpenCells)
    counts = Counter(
        outer.layer_str(cell)
        for rows in space.choices
        for cell in np.unique(outer.canonical_cells(rows), axis=0)
    )
    cells = [
        (f"{text}: {n} of {len(space.choices)} layers", outer.layer_from_str(text))
        for text, n in counts.most_common(FREQUENT)
    ]
    outer.draw_cells(cells, figure.add_subplot())
