"""Studies: Optuna over a method's own hyperparameters, each trial several searches."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nasplug import __version__, api
from nasplug.errors import NasplugError
from nasplug.hyperparameters import Method
from nasplug.journal import FORMAT, RunDirectory, write_json
from nasplug.problem import Problem
from nasplug.space import Space
from nasplug.tracking import read_json, redacted

try:
    import optuna
    from optuna.study import StudyDirection

    from nasplug.tuning import report, worker
    from nasplug.tuning import storage as stored
    from nasplug.tuning.searches import Searches
except ImportError as error:
    raise NasplugError(f"tuning needs {error.name}: pip install 'nasplug[tuning]'") from None

MAXIMIZED = ("value", "report")  # the objectives that follow the problem; the others are costs


class Study(optuna.Study):
    """An Optuna study that knows where its files are."""

    def __init__(
        self, study_name: str, storage: optuna.storages.BaseStorage, directory: Path
    ) -> None:
        super().__init__(study_name, storage)
        self.directory = directory


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
    out: Path | str | None = None,
    tracking: bool = True,
    progress: bool | None = None,
    space: Space | None = None,
    evaluate: Callable[..., Any] | None = None,
    direction: Literal["maximize", "minimize"] = "maximize",
    evaluator: str | None = None,
    reward: str | None = None,
    **fixed: Any,
) -> Study:
    """Find good hyperparameters of a method: an Optuna study.

    A trial searches `on` (or a `space` with an `evaluate` of your own) once for each of the same
    `seeds` seeds, with `budget` trials each; its value is the mean. The first trial has the
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
    storage: the URL of a database or of a journal file (``journal:///folder/file.log``); by
        default an SQLite database in the study directory. All processes and machines with the
        same storage and the same name of the study directory work on the same study.
    trials: how many the study is to have in all; of one that has them, nothing is searched.
    workers: processes. A script that asks for several keeps its own work under
        ``if __name__ == "__main__"``, since they import it.
    out: the study directory, by default a new one under ``runs/``; an existing one is
        continued. best.json in it is for ``nasplug run --config``.

    With one worker, the same seed gives the same study, interrupted or not.
    """
    numbers = {"trials": trials, "seeds": seeds, "workers": workers, "seed": seed}
    for name, number in numbers.items():
        if number < (least := 0 if name == "seed" else 1):
            raise NasplugError(f"{name} must be at least {least}, got {number}")
    if not objectives or len(set(objectives)) < len(objectives):
        raise NasplugError("objectives must be different names, such as value,cost")
    task = worker.Task(
        method, on, space, evaluate, direction, evaluator, reward,
        tuple(params) if params is not None else None, fixed, budget, tuple(objectives), seed,
        tuple(np.random.SeedSequence(seed).generate_state(seeds).tolist()), sampler, pruner,
    )  # fmt: skip
    with _quiet():
        target = task.problem(task.seeds[0])
        hyperparameters = task.hyperparameters(target.space)
        task.search(target, hyperparameters.defaults, task.seeds[0])  # or say what is wrong
        task.make_sampler(), task.make_pruner()
        kept = stored.open_storage(storage) if storage else None
        folder = _study_directory(out, task.method_name, target, shared=kept is not None)
        url = storage or f"sqlite:///{folder / 'study.db'}"
        about = {
            "method": task.method_name,
            "problem": target.name,
            "evaluator": target.evaluator_name,
            "reward": getattr(target.evaluator, "reward", "value"),
            "tuned": list(hyperparameters.names),
            "fixed": hyperparameters.fixed,
            "budget": budget,
            "objectives": list(task.objectives),
            "seed": seed,
            "seeds": list(task.seeds),
        }
        directions = [
            StudyDirection.MAXIMIZE
            if target.maximize and name in MAXIMIZED
            else StudyDirection.MINIMIZE
            for name in task.objectives
        ]
        with stored.reachable(url):
            study = stored.open_study(
                kept or stored.open_storage(url), folder.name, directions, about,
                hyperparameters.defaults, trials, _place(folder),
            )  # fmt: skip
            _describe(study, about, target, trials, url, folder)
            with api._status(RunDirectory(folder)):
                if tracking:
                    from nasplug.tracking import follow

                    follow(folder)
                try:
                    with _bar(study, task, trials, progress) as watch:
                        _run(task, url, study, folder, workers, watch)
                except KeyboardInterrupt:
                    done = f"interrupted after {_finished(study)} of {trials} trials"
                    raise KeyboardInterrupt(f"{done}; it goes on with out={folder}") from None
                if not study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
                    raise NasplugError(f"every trial failed; the last said: {_last_error(study)}")
                report.write(study, folder)
    return Study(study.study_name, study._storage, folder)


def _run(
    task: worker.Task,
    url: str,
    study: optuna.Study,
    folder: Path,
    workers: int,
    watch: Callable[[], None],
) -> None:
    locks = stored.lock_folder(url, folder)
    if workers == 1:
        queue = task.queue(study._storage, study.study_name)
        objective = worker.Objective(task, Searches(folder / "searches.jsonl"))
        worker.work(queue, objective, locks, watch)
        return
    context = multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    arguments = (task, url, study.study_name, folder, max(1, _cores() // workers), errors)
    processes = [
        context.Process(target=_worker, args=arguments, daemon=True) for _ in range(workers)
    ]
    limit: int | None = stored.RETRIES
    try:
        for process in processes:
            process.start()
        while any(process.is_alive() for process in processes):
            time.sleep(worker.POLL)
            watch()
    except KeyboardInterrupt:
        limit = None  # it is no trial's fault that its worker ends now
        raise
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()
        stored.reclaim(study, locks, limit)
    if not errors.empty():
        raise NasplugError(errors.get())
    if study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)):
        codes = ", ".join(str(process.exitcode) for process in processes)
        raise NasplugError(
            f"all workers have died (exit codes {codes}); their trials wait in the study: the "
            "same command goes on with them"
        )


def _worker(
    task: worker.Task, url: str, name: str, folder: Path, threads: int, errors: Any
) -> None:
    """A process of its own; Ctrl-C is its parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    try:
        with _quiet(), stored.reachable(url):
            objective = worker.Objective(task, Searches(folder / "searches.jsonl"))
            queue = task.queue(stored.open_storage(url), name)
            worker.work(queue, objective, stored.lock_folder(url, folder))
    except NasplugError as error:
        errors.put(str(error))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _study_directory(out: Path | str | None, method: str, target: Problem, shared: bool) -> Path:
    """A study is named after its directory, so one in a shared storage has always the same."""
    name = f"tune-{method}"
    if out is None and not shared:
        return api._free_directory(name, target)
    stem = f"{name}-{target.space.name}-{target.data}".replace("/", "-")
    folder = Path(out).absolute() if out is not None else api.runs_folder() / stem
    if (folder / "run.json").exists():
        raise NasplugError(f"{folder} holds a run: another --out starts a study")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NasplugError(f"cannot write the study directory {folder}: {error}") from None
    return folder


def _describe(
    study: optuna.Study, about: dict[str, Any], target: Problem, trials: int, url: str, folder: Path
) -> None:
    """study.json; refuses a directory of another study."""
    made = study.user_attrs[stored.ATTRIBUTE]
    file = folder / "study.json"
    if file.exists() and read_json(file).get("key") != made["key"]:
        raise NasplugError(
            f"{folder} belongs to another study than the one of that name in {redacted(url)}: "
            "another --out starts a new one"
        )
    write_json(
        file,
        {
            "format": FORMAT,
            "nasplug": __version__,
            "key": made["key"],
            "joined": made["home"] != _place(folder),
            "name": study.study_name,
            "storage": redacted(url),
            **about,
            "trials": trials,
            "scores": {"problem": target.name, "maximize": target.maximize},
            "environment": api._environment(),
        },
    )


def _place(folder: Path) -> str:
    return f"{platform.node()}:{folder}"


def _finished(study: optuna.Study) -> int:
    """How many trials are over, lost ones not counted: they are run again."""
    lost = stored.retried(study)
    done = study.get_trials(deepcopy=False, states=stored.FINISHED)
    return sum(trial.number not in lost for trial in done)


def _last_error(study: optuna.Study) -> str:
    errors = [t.user_attrs["error"] for t in study.trials if "error" in t.user_attrs]
    return errors[-1] if errors else "the workers died"


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's log is for those who call it themselves."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _bar(
    study: optuna.Study, task: worker.Task, total: int, show: bool | None
) -> Iterator[Callable[[], None]]:
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
        bar = progress.add_task(f"tuning {task.method_name}", total=total, best="")

        def refresh() -> None:
            progress.update(bar, completed=_finished(study), best=report.headline(study))

        refresh()
        yield refresh
        refresh()
