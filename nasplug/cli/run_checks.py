"""What a run directory holds, whether it is sound, and how to go on: ``nasplug doctor RUN_DIR``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nasplug import comparison
from nasplug.errors import NasplugError
from nasplug.kernel.problem import problem
from nasplug.kernel.registry import registry
from nasplug.kernel.space import Space
from nasplug.kernel.subspace import load
from nasplug.kernel.trial import State
from nasplug.run.api import searched_by
from nasplug.run.directory import CHECKPOINTS, QUALITY, RunDirectory, read_json
from nasplug.run.journal import FILE, Journal, Past
from nasplug.run.problem import searched
from nasplug.run.secrets import redacted
from nasplug.tracking import is_comparison, is_study


@dataclass
class Check:
    """One finding. Only "fail" would stop the run; `fix` says what to do."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


def examine_run(path: Path) -> Iterator[Check]:
    """All checks of a run, study or comparison directory, as they are done. Nothing is
    written or sent."""
    if is_study(path):
        about = read_json(path / "study.json")
        found = f"{about.get('name')}, of {about.get('trials')} trials, in {about.get('storage')}"
        yield Check("study", "ok", found, "the `nasplug tune` that began it goes on with it")
        return
    if is_comparison(path):
        yield _comparison(path)
        return
    try:
        directory = RunDirectory.open(path)
    except NasplugError as error:
        yield Check("run.json", "fail", str(error))
        return
    run, options = directory.run, directory.run["options"]
    yield Check(
        "run.json", "ok",
        f"{run['method']} on {run['scores']['problem']}, budget {options['budget']}, seed "
        f"{options['seed']}, of {run['environment']['time']} by nasplug {run['nasplug']}",
    )  # fmt: skip
    space, lacks = None, []
    for check, lack, opened in _openings(run):
        space = opened or space
        lacks += [lack] if lack else []
        yield check
    yield from _journal(directory, space)
    if space is not None:
        yield from _subspaces(directory.path, space)
    yield _tracked(directory)
    yield _state(directory, lacks)


def _comparison(path: Path) -> Check:
    """What is compared, and whether all of it was."""
    try:
        about = comparison.Comparison(path).about
    except NasplugError as error:
        return Check(
            "comparison", "fail", str(error), "the `nasplug compare` that began it mends it"
        )
    methods, problems = (
        ", ".join(one["name"] for one in about[kind]) for kind in ("methods", "problems")
    )
    found = f"{methods} on {problems}, budget {about['budget']}, {about['seeds']} seeds"
    directory = RunDirectory(path)
    if directory.in_use():
        return Check("comparison", "ok", f"{found}: going on")
    if directory.status().get("state") == "finished":
        return Check("comparison", "ok", found, f"to look at it: nasplug report {path}")
    again = shlex.join(about["environment"]["command"])
    return Check("comparison", "warn", f"{found}: has not ended", f"to go on: {again}")


def _openings(run: dict[str, Any]) -> Iterator[tuple[Check, str, Space | None]]:
    """Whether what was searched with is here; and what has to be given again, or the space."""
    try:
        registry().get("method", searched_by(run))
    except NasplugError as error:
        yield Check("method", "warn", str(error), "if it is your own, give it"), "method", None
    try:
        on, space = searched(run)
        opened = problem(on, run["evaluator"]).space if on else space
    except NasplugError as error:
        lack = "" if run["problem"] else "space"
        yield Check("space", "warn" if lack else "fail", str(error)), lack, None
    else:
        assert opened is not None
        if opened.fingerprint == run["space"]["fingerprint"]:
            yield Check("space", "ok", opened.name), "", opened
        else:
            fix = f"install nasplug {run['nasplug']}, with which it was searched"
            yield Check("space", "fail", f"{opened.name} has changed since", fix), "", None
    for given, name in (
        (run["scores"]["evaluator"] == "function", "evaluate"), (run["data"] is True, "data"),
    ):  # fmt: skip
        if given:
            yield Check(name, "ok", "was given from Python"), name, None


def _journal(directory: RunDirectory, space: Space | None) -> Iterator[Check]:
    """The trials, and the checkpoint after some of them, if the space is here to read them by."""
    path, run = directory.path, directory.run
    past: Past | None = None
    if not (path / FILE).exists():
        yield Check("journal", "ok", "no trial yet")
    else:
        try:
            with closing(Journal(path, read=True)) as journal:
                if space is not None:
                    past = journal.past(space, run["options"]["budget"])
                    trials = past.trials
                    columns = trials.states, trials.values, trials.fidelities
                else:
                    rows = journal.read()
                    columns = (
                        np.array([row.state for row in rows], np.int8),
                        np.array([row.value for row in rows], float),
                        np.array([row.fidelity for row in rows], np.int64),
                    )
        except NasplugError as error:
            yield Check("journal", "fail", str(error))
            return
        yield Check("journal", "ok", _counted(*columns, run))
    if space is not None and any((path / name).exists() for name in CHECKPOINTS):
        try:
            state = directory.load_checkpoint(
                lambda state: past is not None and directory.fits(state, past)
            )
        except NasplugError as error:
            yield Check("checkpoint", "fail", str(error))
        else:
            assert state is not None
            yield Check("checkpoint", "ok", f"after {state['trials']} trials")


def _counted(
    states: npt.NDArray[np.int8],
    values: npt.NDArray[np.float64],
    fidelities: npt.NDArray[np.int64],
    run: dict[str, Any],
) -> str:
    """How many trials there are, of which kind, and the best at the highest fidelity."""
    said = [f"{(states > 0).sum()} trials of {run['options']['budget']}"]
    for state in (State.FAILED, State.PRUNED):
        if n := (states == state).sum():
            said.append(f"{n} {state.name.lower()}")
    best = np.nanmax if run["scores"]["maximize"] else np.nanmin
    done = states == State.COMPLETE
    if done.any():
        complete = values[done & (fidelities == fidelities[done].max())]
        said.append(f"best {run['scores']['reward']} {best(complete):.6g}")
    return ", ".join(said)


def _subspaces(path: Path, space: Space) -> Iterator[Check]:
    """Subspaces: readable, and of this space."""
    for name in ("within.npz", "subspace.npz"):
        if (path / name).exists():
            try:
                yield Check(name, "ok", load(space, path / name).describe())
            except NasplugError as error:
                yield Check(name, "fail", str(error))
    try:
        read_json(path / "space.json", QUALITY)
    except NasplugError as error:
        yield Check("space.json", "warn", str(error))


def _tracked(directory: RunDirectory) -> Check:
    notes, status = read_json(directory.path / "tracking.json"), directory.status()
    sync = f"nasplug sync {directory.path}"
    if not notes.get("run_id"):
        wished = directory.run["tracking"]
        return Check("MLflow", "warn" if wished else "ok", "nothing sent", sync if wished else "")
    found = (
        f"run {notes['run_id']} in {redacted(str(notes.get('uri')))}: {notes.get('trials')} trials"
    )
    if error := notes.get("error"):
        return Check("MLflow", "warn", f"{found}; {error}", sync)
    complete = status and notes.get("ended") == status
    return Check("MLflow", "ok" if complete else "warn", found, "" if complete else sync)


def _state(directory: RunDirectory, lacks: list[str]) -> Check:
    """Who searches it, or how it ended; and the command that goes on."""
    status, path = directory.status(), directory.path
    state, resume = status.get("state", "running"), f"nasplug resume {path}"
    if lacks:
        given = ", ".join(f"{name}=..." for name in lacks)
        resume = f"from Python: nasplug.resume({str(path)!r}, {given})"
    if directory.in_use():
        found = f"process {status.get('pid')} on {status.get('host')} searches it"
        return Check("state", "ok", found)
    if state == "finished":
        found = f"finished after {status.get('seconds', 0):.1f} s: {status.get('stopped')}"
        return Check("state", "ok", found, f"its selection again: {resume}")
    said = {"running": "its process has died", "killed": "was interrupted"}
    return Check("state", "warn", said.get(state, f"failed: {status.get('error')}"), resume)
