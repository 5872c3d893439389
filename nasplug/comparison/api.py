"""The Python doors: `compare` and `ablate`."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nasplug._version import __version__
from nasplug.comparison.contenders import Contender, contenders, variants
from nasplug.comparison.report import WRITTEN, write
from nasplug.comparison.result import FORMAT, Comparison
from nasplug.comparison.searches import Record, Rules, Task, described, fingerprint, opened
from nasplug.comparison.store import Store
from nasplug.errors import NasplugError, check_number
from nasplug.kernel.problem import Problem
from nasplug.kernel.registry import registry
from nasplug.run.api import check_kinds, status_kept
from nasplug.run.directory import RunDirectory, environment, read_json, runs_folder, write_json
from nasplug.run.latency import Given, table
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
    latency: Given | None = None,
    evaluator: str | None = None,
    reward: str | None = None,
    report: str | None = None,
    workers: int | str | None = None,
    out: Path | str | None = None,
    tracking: bool = True,
    progress: bool | None = None,
) -> Comparison:
    """Compare methods at equal budgets, by what the archs that they select report.

    methods: names, with hyperparameters if need be, ``"NAME:size=4,rate=0.1"``, and classes in
        files, ``"hill_climber.py:HillClimber:explore=0.3"``; or {what it is called there: text}.
    on: a problem by name, or several: ``["nb201/cifar10", "graph/cora"]``. A space or a function of
        your own has no name and no version by which what is kept of it could be known again.
    budget: trials of each search. `max_cost` and `max_seconds` end it earlier, and what was scored
        beyond them does not count.
    seeds: each method searches each problem with the seeds 0, 1, ..., seeds - 1.
    constraints, latency, evaluator, reward, report: as `nasplug.search` takes them; a table of
        latencies is of one space.
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
    names = list(on) if isinstance(on, Sequence) and not isinstance(on, str) else [on]
    if unnamed := [one for one in names if not isinstance(one, str)]:
        raise NasplugError(
            f"a comparison is on problems by name, such as 'nb201/cifar10', got {unnamed[0]!r}: "
            "search your own with each method, and nasplug.report(RUN_DIRS) compares the runs"
        )
    if not names or len(set(names)) < len(names):
        raise NasplugError(f"on= is one problem or several different ones, got {names}")
    rules = Rules(budget, max_cost, max_seconds, tuple(constraints), evaluator, reward, report)
    problems = {name: opened(name, rules, 0) for name in names}
    if latency is not None:
        tables = [table(problem.space, latency).content for problem in problems.values()]
        rules = replace(rules, latency=json.dumps(tables[0]))
    crew = Workers.of(cores() if workers is None else workers)
    tasks = [Task(one, name, s, rules) for s in range(seeds) for name in names for one in found]
    prints = {name: fingerprint(problem) for name, problem in problems.items()}
    keys = {task: task.key(prints[task.on]) for task in tasks}
    with ExitStack() as ends:
        store = ends.enter_context(closing(Store(runs_folder() / STORE)))
        records = store.find(keys.values())
        missing = [task for task in tasks if keys[task] not in records]
        first = missing[: len(names) * len(found)]  # one of each kind
        pool = ends.enter_context(closing(_Pool(crew, first)))
        noted = {t.contender: records[key]["about"] for t, key in keys.items() if key in records}
        known = {one: noted.get(one) or one.about for one in found}
        trains = {one.name: known[one]["trains"] for one in found}
        _check_alike(trains, problems, rules)
        for task in first:
            task.make()  # what is wrong with it is said before anything is written
        _warn([task for task in missing if not trains[task.contender.name]], problems, crew.size)
        digest = hashlib.sha256("".join(keys.values()).encode()).hexdigest()
        directory = _directory(Path(out) if out else runs_folder() / f"compare-{digest[:8]}")
        about: dict[str, Any] = {
            "format": FORMAT, "nasplug": __version__, "key": digest,
            "methods": [{"name": one.name, **one.identity, **known[one]} for one in found],
            "problems": [{"name": name, **described(problems[name])} for name in names],
            "budget": budget, "max_cost": max_cost, "max_seconds": max_seconds,
            "constraints": list(constraints), "seeds": seeds,
        }  # fmt: skip
        with closing(directory):
            changed = bool(missing) or not _written(directory, about)
            with status_kept(directory) if changed else nullcontext():
                if changed:
                    about["environment"] = environment()
                    write_json(directory.path / "comparison.json", about)
                if tracking:
                    registry().get("tracker", "mlflow")(directory.path)
                with _bar(len(found), len(tasks), progress) as watch:
                    watch(len(records))
                    try:
                        for task, record in pool.run(missing):
                            store.put(keys[task], record)
                            records[keys[task]] = record
                            watch(len(records))
                    except KeyboardInterrupt:
                        raise KeyboardInterrupt(
                            f"interrupted after {len(records)} of {len(tasks)} searches, which "
                            "are kept: the same command goes on"
                        ) from None
                if changed:
                    write(directory.path, [(task, records[keys[task]]) for task in tasks])
    return Comparison(directory.path)


def ablate(method: str, on: str | Sequence[str], *, budget: int, **options: Any) -> Comparison:
    """Compare a method with the variants of itself that it declares as its `ablations`.

    method: as in `compare`; hyperparameters that are given hold for the variants, too. All else is
    as in `compare`.
    """
    return compare(variants(method), on, budget=budget, **options)


def _check_alike(trains: Mapping[str, bool], problems: Mapping[str, Problem], rules: Rules) -> None:
    """NasplugError for what cannot be compared. trains: which methods train a supernet."""
    upwards = [name for name, problem in problems.items() if problem.maximize]
    if 0 < len(upwards) < len(problems):
        other = next(name for name in problems if name not in upwards)
        raise NasplugError(
            f"{upwards[0]} is maximized and {other} is minimized: compare on one after the other"
        )
    if len(set(trains.values())) > 1 and rules.max_seconds is None:
        one, other = (next(n for n in trains if trains[n] is kind) for kind in (True, False))
        raise NasplugError(
            f"a trial of {one} is an epoch of its supernet, one of {other} is an arch: give both "
            "the same time, by max_seconds"
        )
    for name, problem in problems.items():
        if rules.max_cost is not None and problem.free:
            archs = (problem.region or problem.space).sample(1, 0)
            if not (problem.score(archs).costs > 0).all():
                raise NasplugError(f"{name} states no costs, so max_cost cannot apply to it")


def _warn(tasks: Sequence[Task], problems: Mapping[str, Problem], at_once: int) -> None:
    """Say how long it takes where archs are trained, by the time of one of them."""
    for name, problem in problems.items():
        n = sum(task.on == name for task in tasks)
        if problem.free or problem.evaluator is None or not n:
            continue
        start = time.perf_counter()
        problem.score((problem.region or problem.space).sample(1, 0))
        trial = time.perf_counter() - start
        budget = tasks[0].rules.budget
        if (seconds := trial * budget * n / at_once) > LONG:
            print(
                f"{name} is scored by {problem.evaluator_name}: a trial took "
                f"{trial:.2g} s, so that {n} searches of {budget} trials take about "
                f"{_duration(seconds)}, {at_once} at a time; all that has ended is kept",
                file=sys.stderr,
            )  # fmt: skip


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds > 3600 else f"{seconds / 60:.0f} minutes"


def _written(directory: RunDirectory, about: Mapping[str, Any]) -> bool:
    """Whether the directory has all of this comparison from an earlier call."""
    files = WRITTEN if len(about["problems"]) > 1 else WRITTEN[:-1]
    there = read_json(directory.path / "comparison.json")
    return (
        {**there, **about} == there
        and directory.status().get("state") == "finished"
        and all((directory.path / name).exists() for name in files)
    )


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


class _Pool:
    """Runs searches, several at a time, unless there is but one worker.

    first: what all workers make beforehand, while this process checks it: modules are loaded side
        by side, and loky, which ends a process that grows after its first call, finds none.
    """

    def __init__(self, crew: Workers, first: Sequence[Task]) -> None:
        self.crew, alone = crew, crew.size == 1 and crew.local
        count = 0 if alone or not first else crew.size
        self.executors = [crew.executor(i) for i in range(count)]
        for executor in self.executors:
            executor.submit(_prepare, first)

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Record]]:
        """Each as it ends."""
        if not self.executors:
            yield from ((task, task.run()) for task in tasks)
            return
        waiting = iter(tasks)
        running: dict[Future[Record], tuple[Task, Executor]] = {}

        def submit(executor: Executor) -> None:
            if task := next(waiting, None):
                running[executor.submit(Task.run, task)] = task, executor

        for executor in self.executors * AHEAD:
            submit(executor)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task, executor = running.pop(future)
                submit(executor)
                yield task, _result(future, task)

    def close(self) -> None:
        how = {"kill_workers": True} if self.crew.local else {"wait": False}
        for executor in self.executors:
            executor.shutdown(**how)


def _prepare(tasks: Sequence[Task]) -> None:
    with suppress(NasplugError):  # which the master says
        for task in tasks:
            task.make()


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
