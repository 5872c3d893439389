"""The Python door: `search`, `resume`."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nasplug import __version__
from nasplug.errors import NasplugError
from nasplug.hyperparameters import Method, Source
from nasplug.journal import RunDirectory
from nasplug.plugins import registry
from nasplug.problem import Problem, problem
from nasplug.problem import space as named
from nasplug.search import Search
from nasplug.selection import Selection
from nasplug.space import Space
from nasplug.subspace import Region, Subspace, load
from nasplug.trial import median_pruner

PASSWORD = re.compile(r"(?<=:)//[^/@\s]+@")  # in a URL on the command line


def search(
    method: Any,
    on: str | None = None,
    *,
    budget: int,
    seed: int = 0,
    space: Space | None = None,
    evaluate: Callable[..., Any] | None = None,
    direction: Literal["maximize", "minimize"] = "maximize",
    evaluator: str | None = None,
    reward: str | None = None,
    report: str | None = None,
    within: Region | Path | str | None = None,
    repeats: Literal["free", "count"] = "free",
    constraints: Sequence[str] = (),
    max_cost: float | None = None,
    max_seconds: float | None = None,
    prune: bool = False,
    out: Path | str | bool | None = None,
    tracking: bool = True,
    progress: bool | None = None,
    plugins: Sequence[Any] = (),
    **hyperparameters: Any,
) -> Selection:
    """Search for a good arch.

    method: a name (``nasplug list methods``) or a method object of your own.
    on: a problem, ``"nb201/cifar10"``; or else give `space` and `evaluate`, a function of
        {decision: choice} (and optionally the trial) that returns the value, or a mapping
        with "value", "report", "cost" and further metrics. `direction` is about that value.
        A method that trains a supernet scores by itself: `space` and ``data=`` do.
    budget: trials; a repeated arch is answered from the cache, and costs one only if
        ``repeats="count"``. `max_cost` and `max_seconds` end the search earlier, by the cost
        that the benchmark states and by the clock.
    within: a Subspace, or the run directory of a search that ended with one; that also says on
        which problem or space, if nothing else does.
    constraints: such as ``["flops<=300e6"]``; archs that break one are never selected.
    prune: let the median of earlier trials stop hopeless ones, where `evaluate` reports steps.
    out: the run directory; True for a new one under ``runs/``, as always if `tracking`. Without
        either, nothing is written.
    tracking: log to MLflow (``MLFLOW_TRACKING_URI``, else ``runs/mlflow.db``), from a process of
        its own that follows the journal.
    progress: a progress bar; by default if a person watches.
    hyperparameters: the method's own (``nasplug show METHOD``).

    Same seed, same trials. Raises NasplugError for whatever the user can mend.
    """
    options: dict[str, Any] = {
        "budget": budget, "seed": seed, "repeats": repeats, "constraints": list(constraints),
        "max_cost": max_cost, "max_seconds": max_seconds,
    }  # fmt: skip
    if on is None and space is None and isinstance(within, Path | str):
        on, space = _searched(RunDirectory.open(within)[1])
    chosen, name = _method(method, hyperparameters)
    target = _problem(chosen, on, space, evaluate, direction, evaluator, reward, report, seed)
    target = _adapted(chosen, target)
    region = _region(target.space, within)
    run = Search(target, chosen, name, within=region, plugins=plugins, **options)
    if tracking or out:
        directory = RunDirectory.create(
            Path(out) if isinstance(out, Path | str) else _free_directory(name, target),
            {
                "nasplug": __version__,
                "method": name,
                "hyperparameters": _jsonable(getattr(chosen, "hyperparameters", hyperparameters)),
                "problem": target.name if on else None,
                "space": None if on else _written(target.space),
                "direction": direction,
                "evaluator": evaluator,
                "reward": reward,
                "report": report,
                "scores": {
                    "problem": run.problem.name,  # a supernet method may score in its own way
                    "evaluator": run.problem.evaluator_name,
                    "maximize": run.problem.maximize,
                    "reward": getattr(run.problem.evaluator, "reward", None),
                    "report": getattr(run.problem.evaluator, "report", None),
                },
                "within": isinstance(region, Subspace),
                "prune": prune,
                "tracking": tracking,
                "options": _jsonable(options),
                "environment": _environment(),
            },
        )
        if isinstance(region, Subspace):
            region.save(directory.path / "within.npz")
        run.keep_in(directory)
    return _run(run, prune, tracking, progress)


def resume(
    run_dir: Path | str,
    *,
    method: Any = None,
    space: Space | None = None,
    evaluate: Callable[..., Any] | None = None,
    progress: bool | None = None,
    plugins: Sequence[Any] = (),
    **sources: Any,
) -> Selection:
    """Continue an interrupted search: the same trials as if it had never been interrupted.

    What cannot be written down (a method object, `evaluate`, a Space subclass of your own, and
    `sources` such as ``data=``) has to be given again. Resuming a finished run replays it and
    returns its selection.
    """
    directory, run = RunDirectory.open(run_dir)
    if run["scores"]["evaluator"] == "function" and evaluate is None:
        raise NasplugError(
            f"{run_dir} scored archs with a function of yours: "
            "nasplug.resume(run_dir, evaluate=function)"
        )
    on, space = _searched(run, space)
    if method is None:
        cls = registry().get("method", run["method"])
        for source in sources:
            if not isinstance(cls.declared().get(source), Source):
                raise NasplugError(f"{source} is no source of {run['method']}, and stays as it was")
        chosen, name = _method(run["method"], {**run["hyperparameters"], **sources})
    else:
        chosen, name = _method(method, sources)
    target = _problem(
        chosen, on, space, evaluate, run["direction"], run["evaluator"], run["reward"],
        run["report"], run["options"]["seed"],
    )  # fmt: skip
    target = _adapted(chosen, target)
    region = load(target.space, directory.path / "within.npz") if run["within"] else None
    continued = Search(target, chosen, name, within=region, plugins=plugins, **run["options"])
    continued.keep_in(directory)
    return _run(continued, run["prune"], run["tracking"], progress)


def _run(search: Search, prune: bool, tracking: bool, progress: bool | None) -> Selection:
    """Run a search with its progress bar, its reports and its tracker."""
    from nasplug.progress import bar

    if prune:
        search.pruner = median_pruner(search.trials)
    try:
        with _status(search.directory):
            if tracking and search.directory:
                from nasplug.tracking import follow

                follow(search.directory.path)
            with bar(search, progress):
                selection = search.run()
            if search.directory:
                from nasplug.reporting import write

                write(selection, search.directory.path)
    finally:
        if search.directory:
            search.directory.close()
    return selection


@contextmanager
def _status(directory: RunDirectory | None) -> Iterator[None]:
    """Keep status.json, from which others learn whether the search goes on or how it ended."""
    if directory is None:
        yield
        return
    directory.set_status("running")
    try:
        yield
    except Exception as error:
        directory.set_status("failed", f"{type(error).__name__}: {error}")
        raise
    except BaseException as error:  # Ctrl-C, SystemExit
        directory.set_status("killed", type(error).__name__)
        raise
    directory.set_status("finished")


def _problem(
    method: Any,
    on: str | None,
    space: Space | None,
    evaluate: Callable[..., Any] | None,
    direction: str,
    evaluator: str | None,
    reward: str | None,
    report: str | None,
    seed: int,
) -> Problem:
    if direction not in ("maximize", "minimize"):
        raise NasplugError(f"direction is 'maximize' or 'minimize', got {direction!r}")
    if on is not None and (space is not None or evaluate is not None):
        raise NasplugError("give a problem (on=) or a space with evaluate=, not both")
    if on is not None:
        return problem(on, evaluator, reward, report, seed)
    scores_itself = hasattr(method, "evaluate")
    if space is None or (evaluate is None and not scores_itself):
        raise NasplugError('what to search? on="nb201/digits", or a space and an evaluate function')
    if not isinstance(space, Space):
        raise NasplugError(
            f"space must be a Space, as nasplug.Space(...) or nasplug.space(NAME), got {space!r}"
        )
    if evaluate is None:
        return Problem(space, "data", None, "method", True, space)
    from nasplug.evaluators.function import FunctionEvaluator

    maximize = direction == "maximize"
    scorer = FunctionEvaluator(space, evaluate, maximize)
    return Problem(space, "function", scorer, "function", maximize, space)


def _method(method: Any, hyperparameters: Mapping[str, Any]) -> tuple[Any, str]:
    if isinstance(method, str):
        return registry().get("method", method)(**hyperparameters), method
    if hyperparameters:
        names = ", ".join(hyperparameters)
        raise NasplugError(f"give {names} to the method object itself")
    if isinstance(method, type):
        raise NasplugError(f"give a method object, {method.__name__}(...), not its class")
    return method, type(method).__name__


def _adapted(method: Any, target: Problem) -> Problem:
    return method.adapt(target) if isinstance(method, Method) else target


def _region(space: Space, within: Region | Path | str | None) -> Region | None:
    if within is None or isinstance(within, Space | Subspace):
        return within
    return shrunk(space, within)


def shrunk(space: Space, run_dir: Path | str) -> Subspace:
    """The subspace that a run ended with; NasplugError if it ended with archs alone."""
    directory, _ = RunDirectory.open(run_dir)
    file = directory.path / "subspace.npz"
    if not file.exists():
        raise NasplugError(
            f"{run_dir} did not end with a space: "
            "it ended with archs, not with a subspace to search within"
        )
    return load(space, file)


def _written(space: Space) -> dict[str, Any]:
    """A space for run.json: a plain one by its decisions, others by name."""
    plain = type(space) is Space
    return {"name": space.name, "decisions": _jsonable(space.decisions) if plain else None}


def _searched(
    run: Mapping[str, Any], given: Space | None = None
) -> tuple[str | None, Space | None]:
    """What run.json was on: the name of a problem, or a space, which may be given again.

    Raises NasplugError if the space is of a class that nobody has registered.
    """
    if run["problem"]:
        return run["problem"], None
    written = run["space"]
    if given is not None:
        return None, given
    if written["decisions"]:
        return None, Space(written["decisions"], written["name"])
    try:
        return None, named(written["name"])
    except NasplugError:
        raise NasplugError(
            f"{written['name']} is a space of yours, which has to be given again: space=..."
        ) from None


def _free_directory(method: str, target: Problem) -> Path:
    """``runs/METHOD-SPACE-DATA-N``, the first N that is free."""
    stem = f"{method}-{target.space.name}-{target.data}".replace("/", "-")
    number = 0
    while True:
        path = runs_folder() / f"{stem}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise NasplugError(f"cannot write {path}: {error}; choose another with out") from None
        else:
            return path


def runs_folder() -> Path:
    """Where run directories and the local MLflow store go: ``NASPLUG_RUNS``, else ``runs``."""
    return Path(os.environ.get("NASPLUG_RUNS", "runs")).absolute()


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def _environment() -> dict[str, Any]:
    """Enough to run it again: versions, commit, command line, machine."""
    return {
        "time": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "command": [PASSWORD.sub("//***@", argument) for argument in sys.argv],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git_commit": _git_commit(),
        "versions": _versions(),
    }


def _git_commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def _versions() -> dict[str, str]:
    """The versions of nasplug, of every plugin and of what they stand on."""
    found = {plugin.name: plugin.version for plugin in registry().plugins}
    for name in ("numpy", "torch", "torch-geometric", "xgboost", "scikit-learn", "mlflow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
