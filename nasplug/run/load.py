"""`nasplug.load`: the result of a finished search, read from its directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasplug.errors import NasplugError
from nasplug.hookspecs import hookimpl
from nasplug.kernel.method import Method
from nasplug.kernel.problem import Problem
from nasplug.kernel.problem import space as named
from nasplug.kernel.selection import Selection
from nasplug.kernel.space import Archs, Space
from nasplug.kernel.subspace import Subspace
from nasplug.kernel.subspace import load as load_subspace
from nasplug.kernel.tree import read_arrays
from nasplug.run import weights
from nasplug.run.api import make_search
from nasplug.run.directory import FINISHED, RunDirectory, misfit
from nasplug.run.journal import Journal
from nasplug.run.problem import marked, searched

if TYPE_CHECKING:
    import torch


def load(
    run_dir: Path | str,
    *,
    space: Space | None = None,
    model: Callable[[], Any] | str | None = None,
) -> Selection:
    """What `nasplug.search` returned, from the directory of a finished run.

    Nothing is run: neither the method nor what scored archs, nor the data, need be at hand. A space
    of your own, or a model, has to be given again, unless it was given by name.
    """
    directory = RunDirectory.open(run_dir)
    run, status = directory.run, directory.status()
    if status.get("state") != "finished" or misfit(status, FINISHED):
        raise NasplugError(
            f"{run_dir} has not finished: `nasplug resume {run_dir}` goes on with it"
        )
    found = recorded_space(run, marked(model, space))
    scores = run["scores"]
    problem = Problem(
        found, scores["problem"].rpartition("/")[2], Recorded(directory, found),
        scores["evaluator"], scores["maximize"],
    )  # fmt: skip
    file, region = directory.path / "selection.npz", directory.path / "subspace.npz"
    try:
        archs = read_arrays(file)["archs"]
    except Exception as error:  # a damaged file: see `read_arrays`
        raise NasplugError(f"{file} cannot be read: {error}; put a copy of it back") from None
    method = Selected(archs, load_subspace(found, region) if region.exists() else None)
    options = {**run["options"], "constraints": []}  # the journal says what keeps to them
    search = make_search(problem, method, run["method"], **options)
    journal = Journal(directory.path, read=True)
    try:
        trials = journal.past(found, search.budget).trials
    finally:
        journal.close()
    trials.maximize, trials.objectives = search.maximize, search.objectives
    search.trials, search.folder = trials, directory.path
    search.finished = int((trials.states > 0).sum())
    search.ended, search.stopped = status["seconds"], status["stopped"]
    search.round = status["rounds"]
    return Selection.of(method.select_final(), search)


class Selected(Method):
    """In the place of the method that has searched: whatever it could do, this has done."""

    pareto = asynchronous = True

    def __init__(self, archs: Archs, subspace: Subspace | None) -> None:
        self.archs, self.subspace = archs, subspace

    @hookimpl
    def select_final(self) -> Selection:
        return Selection(self.archs, self.subspace)


class Recorded:
    """In the place of what has scored: what its search has written down of it."""

    def __init__(self, directory: RunDirectory, space: Space) -> None:
        scores = directory.run["scores"]
        self.reward, self.report = scores["reward"], scores["report"]
        self.apart = scores["apart"]
        self.fidelity = scores["fidelity"] and tuple(scores["fidelity"])
        self.maximize, self.region = scores["maximize"], space
        self.path, self.space = directory.path, space

    @hookimpl
    def evaluate(self) -> None:
        raise NasplugError(f"{self.path} was loaded, which scores nothing: nasplug.search does")

    def inherit(self, wanted: Archs) -> torch.nn.Module:
        """The network of the best arch with the weights that scored it, as they were kept."""
        return weights.inherit(self.space, wanted, self.path)


def recorded_space(run: dict[str, Any], given: Space | None) -> Space:
    """The space that was searched, its networks of the size that they had."""
    written = run["space"]
    found: Any
    if run["problem"]:
        found = named(written["name"]).for_data(written["data"])
    else:
        found = searched(run, given)[1]
        if written["inputs"] and found.inputs is None:
            found = found.with_inputs(written["inputs"])
    if found.fingerprint != written["fingerprint"]:
        raise NasplugError(
            f"the space {written['name']} of the run is another one than {found.name}: the "
            "decisions or their choices are not those of then"
        )
    return found
