"""The Python doors: `compare` and `ablate`."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from nasplug._version import __version__
from nasplug.comparison.contenders import Contender, contenders, variants
from nasplug.comparison.report import write
from nasplug.comparison.result import Comparison
from nasplug.comparison.searches import Record, Rules, Task, fingerprint
from nasplug.comparison.store import Store
from nasplug.errors import NasplugError, check_number
from nasplug.kernel.problem import Problem
from nasplug.kernel.registry import registry
from nasplug.run.api import check_kinds, status_kept
from nasplug.run.directory import FORMAT, RunDirectory, environment, runs_folder, write_json
from nasplug.run.parallel import Workers, cores
from nasplug.run.progress import notebook

STORE = "comparisons.db"  # in the runs folder
LONG = 60.0  # seconds from which on it is said beforehand how long a comparison takes
AHEAD = 2  # searches that a worker is given at a time, so that it never waits


def compare(
    methods: Iterable[str] | Mapping[str, str | Contender],
    on: str | Sequence[str],
    *,
    budget: int,
    seeds: int = 10,
    max_cost: float | None = None,
    max_seconds: float | None = None,
    constraints: Sequence[str] = (),
    evaluator: str | None = None,
    reward: str | None = None,
    report: str | None = None,
    workers: int | str | None = None,
    out: Path | str | None = None,
    tracking: bool = True,
    progress: bool | None = None,
) -> Comparison:
    """Compare methods at equal budgets, by what the archs that they select report.

    methods: names, with hyperparameters if need be, ``"dsm:K=4,M=2"``, and classes in files,
        ``"hill_climber.py:HillClimber:explore=0.3"``; or {what it is called there: its text}.
    on: a problem, or several: ``["nb201/cifar10", "graph/cora"]``.
    budget: trials of each search. `max_cost` and `max_seconds` end it earlier, and what was scored
        beyond them does not count.
    seeds: each method searches each problem with the seeds 0, 1, ..., seeds - 1.
    constraints, evaluator, reward, report: as `nasplug.search` takes them.
    workers: how many searches go on at a time, by default one per core; or the name of an engine
        (``"dask:tcp://scheduler:8786"``).
    out: the comparison directory, by default ``runs/compare-...``, named after what is compared.
    tracking: log to MLflow, where a comparison is an experiment.
    progress: a progress bar; by default if a person watches.

    Searches are kept in ``runs/comparisons.db`` as they end, and none is done twice: more methods,
    problems or seeds cost what is new, and an interrupted comparison goes on by the same call.
    """
    check_kinds(
        evaluator=evaluator, reward=reward, report=report, max_cost=max_cost,
        max_seconds=max_seconds, out=out,
    )  # fmt: skip
    check_number("budget", budget, 1)
    check_number("seeds", seeds, 1)
    found = contenders(methods)
    names = [on] if isinstance(on, str) else list(on)
    if not names or len(set(names)) < len(names):
        raise NasplugError(f"on= is one problem or several different ones, got {names}")
    rules = Rules(budget, max_cost, max_seconds, tuple(constraints), evaluator, reward, report)
    crew = Workers.of(cores() if workers is None else workers)
    tasks = [Task(one, name, s, rules) for s in range(seeds) for name in names for one in found]
    problems = {name: Task(found[0], name, 0, rules).problem for name in names}
    _check_alike(found, problems, rules)
    prints = {name: fingerprint(problem) for name, problem in problems.items()}
    keys = {task: task.key(prints[task.on]) for task in tasks}
    with closing(Store(runs_folder() / STORE)) as store:
        records = store.find(keys.values())
        missing = [task for task in tasks if keys[task] not in records]
        for task in missing[: len(names) * len(found)]:
            task.make()  # what is wrong with it is said before anything is written
        _warn(missing, problems, crew.size)
        key = hashlib.sha256("".join(keys.values()).encode()).hexdigest()
        directory = _directory(Path(out) if out else runs_folder() / f"compare-{key[:8]}")
        with closing(directory):
            about = {
                "format": FORMAT,
                "nasplug": __version__,
                "key": key,
                "methods": [{"name": one.name, **one.identity} for one in found],
                "problems": [
                    {
                        "name": name, "reward": problem.reward, "report": problem.report,
                        "maximize": problem.maximize, "evaluator": problem.evaluator_name,
                    }
                    for name, problem in problems.items()
                ],
                "budget": budget,
                "max_cost": max_cost,
                "max_seconds": max_seconds,
                "constraints": list(constraints),
                "seeds": seeds,
                "environment": environment(),
            }  # fmt: skip
            write_json(directory.path / "comparison.json", about)
            with status_kept(directory):
                if tracking:
                    registry().get("tracker", "mlflow")(directory.path)
                with _bar(len(found), len(tasks), progress) as watch:
                    watch(len(records))
                    try:
                        for task, record in _run(missing, crew):
                            store.put(keys[task], record)
                            records[keys[task]] = record
                            watch(len(records))
                    except KeyboardInterrupt:
                        raise KeyboardInterrupt(
                            f"interrupted after {len(records)} of {len(tasks)} searches, which are "
                            "kept: the same command goes on"
                        ) from None
                write(directory.path, [(task, records[keys[task]]) for task in tasks])
    return Comparison(directory.path)


def ablate(method: str, on: str | Sequence[str], *, budget: int, **options: Any) -> Comparison:
    """Compare a method with the variants of itself that it declares as its `ablations`.

    method: as in `compare`; hyperparameters that are given hold for the variants, too. All else is
    as in `compare`.
    """
    return compare(variants(method), on, budget=budget, **options)


def _check_alike(
    methods: Sequence[Contender], problems: Mapping[str, Problem], rules: Rules
) -> None:
    """NasplugError for what cannot be compared."""
    upwards = [name for name, problem in problems.items() if problem.maximize]
    if 0 < len(upwards) < len(problems):
        other = next(name for name in problems if name not in upwards)
        raise NasplugError(
            f"{upwards[0]} is maximized and {other} is minimized: compare on one after the other"
        )
    training = [one.name for one in methods if one.trains]
    if 0 < len(training) < len(methods) and rules.max_seconds is None:
        other = next(one.name for one in methods if not one.trains)
        raise NasplugError(
            f"a trial of {training[0]} is an epoch of its supernet, one of {other} is an arch: "
            "give all the same time, by max_seconds"
        )
    for name, problem in problems.items():
        if rules.max_cost is not None and problem.free:
            archs = (problem.region or problem.space).sample(1, 0)
            if not (problem.score(archs).costs > 0).all():
                raise NasplugError(f"{name} states no costs, so max_cost cannot apply to it")


def _warn(missing: Sequence[Task], problems: Mapping[str, Problem], at_once: int) -> None:
    """Say how long it takes where archs are trained, by the time of one of them."""
    for name, problem in problems.items():
        n = sum(task.on == name and not task.contender.trains for task in missing)
        if problem.free or problem.evaluator is None or not n:
            continue
        start = time.perf_counter()
        problem.score((problem.region or problem.space).sample(1, 0))
        trial = time.perf_counter() - start
        budget = missing[0].rules.budget
        if (seconds := trial * budget * n / at_once) > LONG:
            print(
                f"{name} has no table and is scored by {problem.evaluator_name}: a trial took "
                f"{trial:.2g} s, so that {n} searches of {budget} trials take about "
                f"{_duration(seconds)}, {at_once} at a time; all that has ended is kept",
                file=sys.stderr,
            )  # fmt: skip


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds > 3600 else f"{seconds / 60:.0f} minutes"


def _directory(folder: Path) -> RunDirectory:
    """The comparison directory, locked; one that is there is written anew."""
    for other, what in (("run.json", "run"), ("study.json", "study")):
        if (folder / other).exists():
            raise NasplugError(f"{folder} holds a {what}: another --out starts a comparison")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NasplugError(f"cannot write {folder}: {error}; choose another with out") from None
    directory = RunDirectory(folder.absolute())
    directory.lock()
    return directory


def _run(tasks: Sequence[Task], crew: Workers) -> Iterator[tuple[Task, Record]]:
    """Search, several at a time; each as it ends."""
    if crew.size == 1 and crew.local:
        yield from ((task, task.run()) for task in tasks)
        return
    waiting, running = iter(tasks), {}
    executors = [crew.executor(i) for i in range(crew.size)]

    def submit(executor: Any) -> None:
        if task := next(waiting, None):
            running[executor.submit(Task.run, task)] = task, executor

    try:
        for executor in executors * AHEAD:
            submit(executor)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task, executor = running.pop(future)
                submit(executor)
                yield task, _result(future, task)
    finally:
        for executor in executors:
            executor.shutdown(**({"kill_workers": True} if crew.local else {"wait": False}))


def _result(future: Future[Record], task: Task) -> Record:
    try:
        return future.result()
    except BrokenExecutor as error:
        raise NasplugError(
            f"the process of {task.contender.name} on {task.on}, seed {task.seed}, has died "
            f"({type(error).__name__}): is there memory for so many? The same command goes on, as "
            "with fewer workers"
        ) from None


@contextmanager
def _bar(methods: int, total: int, show: bool | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, by default only where a person watches; yields what moves it."""
    if show is False or (show is None and not (sys.stderr.isatty() or notebook())):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True, force_jupyter=False, force_terminal=notebook() or None)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(f"comparing {methods} methods, searches", total=total)
        yield lambda done: progress.update(bar, completed=done)
