"""Studies: Optuna over a method's own hyperparameters, each trial several searches."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nasplug._version import __version__
from nasplug.errors import NasplugError, check_number, lacking
from nasplug.kernel.method import Method
from nasplug.kernel.problem import Problem
from nasplug.kernel.registry import registry
from nasplug.kernel.space import Space
from nasplug.kernel.subspace import Region
from nasplug.run.api import check_kinds, file_of, status_kept
from nasplug.run.directory import (
    FORMAT,
    RunDirectory,
    digest,
    environment,
    free_directory,
    read_json,
    runs_folder,
    stem_of,
    write_json,
)
from nasplug.run.latency import Given, table
from nasplug.run.parallel import cores
from nasplug.run.prune import quiet
from nasplug.run.secrets import redacted
from nasplug.tracking.locks import Presence

try:
    import optuna
    from optuna.study import StudyDirection
    from optuna.trial import TrialState

    from nasplug.tuning import report as reports
    from nasplug.tuning import storage as stored
    from nasplug.tuning.worker import POLL, Task, Worker
except ImportError as error:
    raise lacking("tuning", error) from None

MAXIMIZED = ("value", "report")  # the objectives that follow the problem; the others are costs


class Study(optuna.Study):
    """An Optuna study that knows where its files are."""

    directory: Path


def tune(
    method: str | type[Method],
    on: str | None = None,
    *,
    trials: int = 50,
    seeds: int = 5,
    params: Sequence[str] | None = None,
    budget: int = 40,
    objectives: Sequence[str] = ("value",),
    sampler: str = "tpe",
    pruner: str = "median",
    storage: str | None = None,
    workers: int = 1,
    seed: int = 0,
    space: Space | None = None,
    model: Callable[[], Any] | str | None = None,
    evaluate: Callable[..., Any] | None = None,
    data: Any = None,
    loss: Any = None,
    metric: Any = None,
    optimizer: Any = None,
    direction: Literal["maximize", "minimize"] = "maximize",
    evaluator: str | None = None,
    reward: str | None = None,
    report: str | None = None,
    fidelity: tuple[int, int] | None = None,
    within: Region | Path | str | None = None,
    constraints: Sequence[str] = (),
    latency: Given | None = None,
    out: Path | str | None = None,
    tracking: bool = True,
    progress: bool | None = None,
    **fixed: Any,
) -> Study:
    """Find good hyperparameters of a method: an Optuna study.

    A trial searches `on` (or a `space` with `evaluate`, or a `model` or `space` with `data`, as
    `nasplug.search` does, with its `loss`, `metric`, `optimizer`, `direction`, `evaluator`,
    `reward`, `report`, `fidelity`, `within`, `constraints` and `latency`) once for each of the
    same `seeds` seeds, with `budget` trials each; its value is the mean. The first trial has the
    method's defaults.

    params: which hyperparameters; by default all that the method declares tunable. `fixed` are
        others that are held at a value.
    objectives: "value" (the reward of the selected arch), "cost" (the seconds that its benchmark
        states or its training took; where neither is known, those of the search), "seconds" (of
        the search), "params", "flops" or a metric of the problem (of the selected arch). Of
        several, the study has a Pareto front.
    sampler, pruner: Optuna's, by name: "tpe", "cmaes", "gp", "nsgaii" ...; "median",
        "wilcoxon", "nop" ..., if need be with options: "tpe(multivariate=True)". The pruner gives
        trials up after two seeds or more; it needs a single objective.
    storage: the URL of a database, ``postgresql://host/database``, or of a journal file,
        ``journal:///folder/file.log``; by default an SQLite database in the study directory. All
        processes and machines with the same storage and the same name of the study directory work
        on the same study.
    trials: how many the study is to have in all; of one that has them, nothing is searched.
    workers: processes. A script that asks for several keeps its own work under
        ``if __name__ == "__main__"``, since they import it; `model`, `data` and what is learned of
        them reach them by name, ``"mypkg.models:Net"``, or pickled.
    out: the study directory, by default a new one under ``runs/``; an existing one is
        continued. best.json in it is for ``nasplug run --config``.

    With one worker, the same seed gives the same study, interrupted or not.
    """
    numbers = {
        "trials": trials, "seeds": seeds, "workers": workers, "budget": budget, "seed": seed,
    }  # fmt: skip
    for name, number in numbers.items():
        check_number(name, number, least=0 if name == "seed" else 1)
    _check_names("objectives", objectives, such_as="['value', 'cost']")
    _check_names("constraints", constraints, such_as="['flops<=300e6']", least=0)
    if params is not None:
        _check_names("params", params, such_as="['K', 'lr']")
    words = {
        "sampler": (sampler, "the name of an Optuna sampler, such as 'tpe(multivariate=True)'"),
        "pruner": (pruner, "the name of an Optuna pruner, such as 'median' or 'nop'"),
        "storage": ("-" if storage is None else storage, "a URL, as 'sqlite:////folder/study.db'"),
        "out": (
            "-" if out is None else os.fspath(out) if isinstance(out, Path) else out,
            "a folder",
        ),
    }
    for name, (word, expected) in words.items():
        if not isinstance(word, str) or not word:  # a study goes on elsewhere, by these names
            raise NasplugError(f"{name} must be {expected}, as text; got {word!r}")
    check_kinds(within=within)
    if not isinstance(method, str) and not (
        isinstance(method, type) and issubclass(method, Method)
    ):
        raise NasplugError(
            f"method must be a name or a class of methods, since its trials differ in "
            f"hyperparameters; got {method!r}"
        )
    description = {
        "on": on, "space": space, "model": model, "evaluate": evaluate, "data": data, "loss": loss,
        "metric": metric, "optimizer": optimizer, "direction": direction, "evaluator": evaluator,
        "reward": reward, "report": report,
    }  # fmt: skip
    search: dict[str, Any] = {
        "budget": budget, "within": within, "constraints": list(constraints), "latency": None,
    }  # fmt: skip
    searches = np.random.SeedSequence(seed).generate_state(seeds).tolist()
    task = Task(
        method, description, search, params, fixed, objectives, trials, seed, searches, sampler,
        pruner, fidelity,
    )  # fmt: skip
    with quiet():
        problem = task.make_problem(searches[0])
        if latency is not None:
            search["latency"] = table(problem.space, latency).content
        hyperparameters = task.hyperparameters(problem.space)
        # What is wrong with the options is said before anything is written.
        probe = task.make_search(problem, hyperparameters.defaults, searches[0])
        problem = probe.problem  # a supernet method scores in its own way
        task.make_sampler(0), task.make_pruner()
        shared = stored.open_storage(storage) if storage else None
        folder = _study_directory(out, task.method_name, problem, shared=shared is not None)
        url = storage or f"sqlite:///{folder / 'study.db'}"
        about = {
            "method": task.method_name,
            "method_file": (file_of(method) or {}).get("checksum"),
            "problem": problem.name,
            "evaluator": problem.evaluator_name,
            "reward": problem.reward,
            "tuned": list(hyperparameters.names),
            "fixed": hyperparameters.fixed,
            "budget": budget,
            "fidelity": fidelity and list(fidelity),
            "within": probe.region.describe(),
            "constraints": list(constraints),
            "latency": search["latency"] and digest(search["latency"])[:12],
            "objectives": list(objectives),
            "seed": seed,
            "seeds": searches,
        }
        directions = [
            StudyDirection.MAXIMIZE
            if problem.maximize and name in MAXIMIZED
            else StudyDirection.MINIMIZE
            for name in objectives
        ]
        with stored.reachable(url), Presence(folder / f"tune-{uuid.uuid4().hex[:12]}.lock"):
            opened = shared or stored.open_storage(url)
            study = Study(
                stored.open_study(
                    opened,
                    url,
                    folder.name,
                    directions,
                    about,
                    hyperparameters.defaults,
                    _home(folder),
                ).study_name,
                opened,
            )
            study.directory = folder
            _describe(study, about, problem, trials, url)
            with status_kept(RunDirectory(folder)):
                if tracking:
                    registry().get("tracker", "mlflow")(folder)
                try:
                    with _bar(study, task, progress) as watch:
                        _run(task, opened, url, study, workers, watch)
                except KeyboardInterrupt:
                    done = len(stored.counted(study, stored.FINISHED))
                    raise KeyboardInterrupt(
                        f"interrupted after {done} of {trials} trials; it goes on with out={folder}"
                    ) from None
                if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                    _, reason = reports.failures(study)
                    raise NasplugError(f"every trial failed; the last said: {reason}")
                with stored.Roll(study, opened, url, folder).turn:  # one process at a time
                    reports.write(study, folder)
    return study


def _check_names(name: str, names: Any, such_as: str, least: int = 1) -> None:
    if not isinstance(names, list | tuple) or not all(
        isinstance(one, str) and one for one in names
    ):
        raise NasplugError(f"{name} must be a list of names, such as {such_as}; got {names!r}")
    if len(names) < least:
        raise NasplugError(f"{name} must be at least one name, such as {such_as}")
    if twice := [one for one in names if names.count(one) > 1]:
        raise NasplugError(f"{name} must be different names, but {twice[0]!r} is given twice")


def _run(
    task: Task,
    storage: optuna.storages.BaseStorage,
    url: str,
    study: Study,
    workers: int,
    watch: Callable[[], None],
) -> None:
    if workers == 1:
        Worker(task, storage, url, study.directory).work(watch)
        return
    context = multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    arguments = (task, url, study.directory, max(1, cores() // workers), errors)
    processes = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(workers)]
    limit: int | None = stored.RETRIES
    try:
        for process in processes:
            process.start()
        while any(process.is_alive() for process in processes):
            time.sleep(POLL)
            watch()
    except KeyboardInterrupt:
        limit = None  # it is no trial's fault that its worker ends now
        raise
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()
        stored.Roll(study, storage, url, study.directory).reclaim(limit)
    if not errors.empty():
        raise NasplugError(errors.get())
    if stored.next_position(study, task.trials) is not None:
        codes = ", ".join(str(process.exitcode) for process in processes)
        raise NasplugError(
            f"all workers have died (exit codes {codes}); the same command goes on with their "
            "trials"
        )


def _work(task: Task, url: str, folder: Path, threads: int, errors: Any) -> None:
    """A process of its own; Ctrl-C is its parent's business, and it ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    try:
        with quiet(), stored.reachable(url):
            Worker(task, stored.open_storage(url), url, folder).work()
    except NasplugError as error:
        errors.put(str(error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)  # in the midst of a trial, which waits again for whoever goes on


def _study_directory(out: Path | str | None, method: str, problem: Problem, shared: bool) -> Path:
    """A study is named after its directory, so one in a shared storage has always the same."""
    if out is None and not shared:
        return free_directory(f"tune-{method}", problem.name)
    name = stem_of(f"tune-{method}", problem.name)
    folder = Path(out).absolute() if out is not None else runs_folder() / name
    try:
        if (folder / "run.json").exists():
            raise NasplugError(f"{folder} holds a run: another --out starts a study")
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: no name that a file could have
        raise NasplugError(f"cannot write the study directory {folder}: {error}") from None
    return folder


def _describe(study: Study, about: dict[str, Any], problem: Problem, trials: int, url: str) -> None:
    """study.json; refuses a directory of another study."""
    created = study.user_attrs[stored.ATTRIBUTE]
    file = study.directory / "study.json"
    if file.exists() and read_json(file).get("key") != created["key"]:
        raise NasplugError(
            f"{study.directory} belongs to another study than the one of that name in "
            f"{redacted(url)}: another --out starts a new one"
        )
    content = {
        "format": FORMAT,
        "nasplug": __version__,
        "key": created["key"],
        "joined": created["home"] != _home(study.directory),
        "name": study.study_name,
        "storage": redacted(url),
        **about,
        "trials": trials,
        "maximized": study.directions[0] == StudyDirection.MAXIMIZE,
        "scores": {"problem": problem.name, "maximize": problem.maximize},
        "environment": environment(),
    }
    write_json(file, content)


def _home(folder: Path) -> str:
    return f"{platform.node()}:{folder}"


@contextmanager
def _bar(study: Study, task: Task, show: bool | None) -> Iterator[Callable[[], None]]:
    """A bar on stderr, by default only on a terminal; yields what refreshes it."""
    if show is False or (show is None and not sys.stderr.isatty()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining(),
        TextColumn("{task.fields[best]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(f"tuning {task.method_name}", total=task.trials, best="")

        def refresh() -> None:
            done = len(stored.counted(study, stored.FINISHED))
            progress.update(bar, completed=done, best=reports.headline(study))

        refresh()
        yield refresh
        refresh()
