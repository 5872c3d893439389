"""The progress bar of a search."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from nasplug.kernel.search import Search
from nasplug.kernel.trial import State, Trials


@contextmanager
def bar(search: Search, show: bool | None = None) -> Iterator[None]:
    """A bar on stderr while the search runs; by default only on a terminal."""
    if show is False or (show is None and not sys.stderr.isatty()):
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining
    from rich.text import Text

    class Activity(ProgressColumn):
        """Asked anew whenever the bar is drawn."""

        def render(self, task: object) -> Text:
            return Text(search.activity)

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining(),
        TextColumn("{task.fields[best]}"), Activity(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(
            f"{search.method_name} on {search.problem.name}", total=search.budget, best=""
        )
        best, failed = -np.inf, 0

        def advance(trials: Trials, rows: npt.NDArray[np.intp]) -> None:
            nonlocal best, failed
            scores = trials.scores[rows]
            best = max(best, float(scores.max()))
            failed += int((trials.states[rows] == State.FAILED).sum())
            value = best if search.maximize else -best
            text = f"best {value:.4g}" if np.isfinite(best) else ""
            progress.update(
                task,
                completed=search.finished,
                best=f"{text}{f', {failed} failed' if failed else ''}",
            )

        search.listeners.append(advance)
        yield
