"""Selection: what a search returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs
from nasplug.kernel.subspace import Subspace
from nasplug.kernel.trial import Trial, Trials

TRACEBACK = "; NASPLUG_TRACEBACK=1 shows the traceback"


class Selection:
    """Ranked archs, best first, and/or a Subspace that the next search may take as `within`.

    A method's ``select_final`` may return one, or just archs or a Subspace.

    pictures: {"name.png": what draws it on a matplotlib Figure}, and files: {"name": what writes
    it to a Path}, for the run directory, if there is one.
    """

    search: Any  # the Search that returned it, which imports this module

    def __init__(
        self,
        archs: npt.ArrayLike | None = None,
        subspace: Subspace | None = None,
        pictures: Mapping[str, Callable[[Any], None]] | None = None,
        files: Mapping[str, Callable[[Path], None]] | None = None,
    ) -> None:
        self._archs = archs
        self.subspace = subspace
        self.pictures, self.files = dict(pictures or {}), dict(files or {})

    @classmethod
    def of(cls, answer: Any, search: Any) -> Selection:
        """Whatever ``select_final`` returned, tied to its search."""
        if isinstance(answer, Subspace):
            selection = cls(subspace=answer)
        else:
            selection = answer if isinstance(answer, Selection) else cls(answer)
        selection.search = search
        return selection

    @property
    def archs(self) -> Archs:
        """(k, d) the selected archs, best first; without a choice of the method, the best trial."""
        if self._archs is None or len(np.asarray(self._archs)) == 0:
            return best_trials(self.search.trials, 1)
        return self.search.trials.space.check(self._archs)

    @property
    def best(self) -> Trial:
        """The first of the selected archs, as the trial that scored it."""
        return self.ranked(1)[0]

    def ranked(self, n: int = 10) -> list[Trial]:
        """The first n selected archs as trials (without a number if one was never scored).

        Of an arch that was scored at several fidelities, the highest of these; of one that a
        supernet has scored after several epochs, the last.
        """
        trials = self.search.trials
        rows = np.flatnonzero(~trials.repeats)
        rows = rows[np.argsort(trials.fidelities[rows], kind="stable")]
        last = dict(zip(self.search.keys(trials.archs[rows]), rows.tolist(), strict=True))
        found = []
        for arch in self.archs[:n]:
            scored = last.get(self.search.keys(arch[None])[0])
            found.append(Trial(-1, arch, trials.space) if scored is None else trials[scored])
            found[-1].trained = getattr(self.search.problem.evaluator, "inherit", None)
        return found

    @property
    def front(self) -> Any:
        """Of a search with several objectives the trials that no other one dominates, a
        `nasplug.run.objectives.Front`."""
        if self.search.objectives is None:
            raise NasplugError("a front is of several objectives: objectives=['val_acc', '-flops']")
        return self.search.objectives.front(self.search.trials)

    @property
    def report(self) -> float | None:
        """The report metric of the best arch (such as its test accuracy), None if unknown."""
        value = self.best.report_value
        return None if math.isnan(value) else value

    @property
    def trials(self) -> Any:
        """The table of all trials: a DataFrame if pandas is installed."""
        try:
            import pandas
        except ImportError:
            return self.search.trials
        return pandas.DataFrame(self.search.trials.to_dict())

    @property
    def run_dir(self) -> Path | None:
        """The run directory, if there is one."""
        folder: Path | None = self.search.folder
        return folder

    def __repr__(self) -> str:
        best = self.best
        return f"<Selection by {self.search.method_name}: {best}, value {best.value:.4g}>"


def best_trials(trials: Trials, n: int, constraints: Sequence[Any] = ()) -> Archs:
    """(<= n, d) the distinct archs with the best scores at the highest fidelity; of several
    objectives those of the front, the knee first, then others.

    constraints: which say, if no trial keeps to them, how near one came.
    """
    if not len(trials):
        raise NasplugError("no trial was made: give the search more time, or loosen its limits")
    scores = trials.final_scores
    order = np.argsort(-scores, kind="stable")
    order = order[np.isfinite(scores[order])]
    if not len(order):
        failed = [note["error"] for note in trials.notes.values() if "error" in note]
        if failed:
            raise NasplugError(f"every trial failed; the last said: {failed[-1]}{TRACEBACK}")
        near = ", ".join(one.nearest(one.of(trials)) for one in constraints)
        raise NasplugError(
            f"no trial keeps to the constraints{near and f': {near}'}; loosen them or raise the "
            "budget"
        )
    # Ties in a large table would make `unique` of everything slow; a few n are enough.
    for width in (8 * n, len(order)):
        archs = trials.space.unique(trials.archs[order[:width]])
        if len(archs) >= n:
            break
    return archs[:n]
