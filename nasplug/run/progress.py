"""The progress bar of a search."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from nasplug.kernel.search import Search
from nasplug.kernel.trial import State, Trials


def notebook() -> bool:
    """Whether this is the kernel of a notebook: Jupyter, VS Code, Colab."""
    return "ipykernel" in sys.modules


@contextmanager
def bar(search: Search, show: bool | None = None) -> Iterator[None]:
    """A bar on stderr while the search runs; by default on a terminal and in a notebook."""
    if show is False or (show is None and not (sys.stderr.isatty() or notebook())):
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining
    from rich.table import Column
    from rich.text import Text

    class Activity(ProgressColumn):
        """Asked anew whenever the bar is drawn."""

        def render(self, task: object) -> Text:
            return Text(search.activity)

    # Names are of the user's, and no markup of rich's: a space may be called [/foo].
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn(),
        Remaining(), TextColumn("{task.fields[best]}"), Activity(Column(no_wrap=True)),
    )  # fmt: skip
    # As text, in a notebook too: rich's own widgets there need ipywidgets.
    console = Console(stderr=True, force_jupyter=False, force_terminal=notebook() or None)
    # All trials count for the estimate: in rich's 30 s there may be none.
    with Progress(*columns, console=console, speed_estimate_period=math.inf) as progress:
        task = progress.add_task(
            f"{search.method_name} on {search.problem.name}", total=search.budget, best=""
        )
        progress.advance(task, 0)  # from now on, for the estimate
        best, failed = (0, -np.inf), 0  # at the highest fidelity

        def advance(trials: Trials, rows: npt.NDArray[np.intp]) -> None:
            nonlocal best, failed
            scores, fidelities = trials.scores[rows], trials.fidelities[rows]
            good = np.isfinite(scores)
            told = zip(fidelities[good].tolist(), scores[good].tolist(), strict=True)
            best = max([best, *told])
            failed += int((trials.states[rows] == State.FAILED).sum())
            value = best[1] if search.maximize else -best[1]
            text = f"best {value:.4g}" if np.isfinite(value) else ""
            progress.update(
                task,
                completed=search.finished,
                best=f"{text}{f', {failed} failed' if failed else ''}",
            )

        search.listeners.append(advance)
        yield
