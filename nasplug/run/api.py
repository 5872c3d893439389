"""The Python door: `search`, `resume`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nasplug import from_file
from nasplug.errors import NasplugError, check_number, lacking
from nasplug.kernel.method import Source
from nasplug.kernel.problem import Problem
from nasplug.kernel.registry import registry
from nasplug.kernel.search import Search
from nasplug.kernel.selection import Selection
from nasplug.kernel.space import Space
from nasplug.kernel.subspace import Region, Subspace, load
from nasplug.kernel.tree import jsonable, map_leaves
from nasplug.run import report as reports
from nasplug.run import weights
from nasplug.run.constraints import Constraints
from nasplug.run.directory import RunDirectory, environment, free_directory
from nasplug.run.init import Init
from nasplug.run.latency import Given, Latency, table
from nasplug.run.parallel import Parallel, Workers
from nasplug.run.problem import marked, posed, searched, space_written
from nasplug.run.progress import bar
from nasplug.run.replay import Replay
from nasplug.run.trace import traced


def search(
    method: Any,
    on: str | None = None,
    *,
    budget: int,
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
    repeats: Literal["free", "count"] = "free",
    isomorphs: Literal["shared", "apart"] | None = None,
    constraints: Sequence[str] = (),
    objectives: Sequence[str] = (),
    scalarise: Literal["chebyshev", "linear", "pareto"] | None = None,
    latency: Given | None = None,
    init: Any = None,
    max_cost: float | None = None,
    max_seconds: float | None = None,
    prune: Any = False,
    workers: int | str | Executor | None = None,
    asynchronous: bool = False,
    retries: int = 1,
    out: Path | str | bool | None = None,
    tracking: bool = True,
    progress: bool | None = None,
    plugins: Sequence[Any] = (),
    **hyperparameters: Any,
) -> Selection:
    """Search for a good arch.

    method: a name (``nasplug list methods``), a class in a file, ``"hill_climber.py:HillClimber"``,
        or a method object of your own.
    on: a problem, ``"nb201/cifar10"``; or else give `space` and
    evaluate: a function of {decision: choice}, and of the trial if it takes one (a parameter named
        ``trial``, or a second one without a default), that returns the value, or a mapping with
        "value", "report", "cost" and further metrics. `direction` is about that value. Or
    data: what to train on, a torch Dataset of (image, label) pairs, arrays (inputs, labels), or a
        pair of those for training and validation; methods that train a supernet train it on them,
        the others train archs one by one (``evaluator="train:epochs=20,seeds=3,lr=0.05"``).
    loss, metric, optimizer: what is learned of `data`, where it is not cross-entropy and accuracy
        for whole numbers or the squared error and R² for real ones: a function of (output, labels)
        or a torch module, or "balanced"; a function of (outputs, labels) whose `direction` is up,
        or one of "accuracy", "balanced_accuracy", "r2", "rmse", "mae" and "loss"; a function that
        makes a torch optimizer of parameters (docs/own-model.md).
    model: in place of a space your own network with its choices marked in place, as
        `nasplug.space_of` takes it. It, `data` and the three of above may also be names,
        ``"mypkg.models:Net"``.
    fidelity: (low, high), between which an arch may be scored by methods such as "hyperband": the
        epochs of training, or whatever an `evaluate` function that takes the trial makes of
        ``trial.fidelity`` and ``trial.checkpoint`` (docs/fidelity.md). Other methods score at the
        highest.
    budget: trials; a repeated arch is answered from the cache, and costs one only if
        ``repeats="count"``. `max_cost` and `max_seconds` end the search earlier, by the cost
        that the benchmark states and by the clock.
    within: a Subspace, or the run directory of a search that ended with one; that also says on
        which problem or space, if nothing else does.
    isomorphs: whether isomorphic archs (of the same `canonical` form) are "shared", so that one of
        them is scored for all, or "apart", the default where a table knows them apart.
    constraints: such as ``["flops<=300e6", "latency<=5ms"]``. Archs that are known to break
        one are not proposed; those that a score tells of are never selected.
    objectives: several things to search for, the reward, metrics, params, flops or latency, with a
        minus what shall be small: ``["val_acc", "-latency"]``. The selection has a `front` then,
        and its best is the front's knee. A method sees one number per trial, by `scalarise`:
        "chebyshev" or "linear" with weights drawn every ten trials, or "pareto", by dominance,
        where it can.
    latency: the file of a table (``nasplug latency-table``), of this device or of another, by which
        `latency` is known of an arch before it is scored. Without one it is what the evaluator
        tells, or measured on this machine of each arch that is scored, in ms.
    init: what is tried first, in the place of the method's first archs: archs, a file with one per
        line, the directory of a finished run, for what that selected; or an evaluator such as
        "proxy:naswot", for the 10 best by it of 100 random archs.
    prune: the Optuna pruner that stops hopeless trials, where `evaluate` reports steps: a name such
        as "hyperband" or "successivehalving(min_resource=2)", an object, or True for "median".
    workers: how many processes of this machine score archs at a time, or the name of an engine
        (``"dask:tcp://scheduler:8786"``, ``"ray"``), or any `concurrent.futures.Executor`. A round
        has as many archs; with the same seed and as many workers the trials are the same.
        `asynchronous`: whoever is free gets the next arch at once, and no two searches are alike.
        A trial whose worker dies is scored again `retries` times.
    out: the run directory; True for a new one under ``runs/``, as always if `tracking`. Without
        either, nothing is written.
    tracking: log to MLflow (``MLFLOW_TRACKING_URI``, else ``runs/mlflow.db``), from a process of
        its own that follows the journal.
    progress: a progress bar; by default if a person watches.
    hyperparameters: the method's own (``nasplug show METHOD``).

    Same seed, same trials. Raises NasplugError for whatever the user can mend.
    """
    check_kinds(
        on=on, direction=direction, evaluator=evaluator, reward=reward, report=report,
        within=within, repeats=repeats, isomorphs=isomorphs, max_cost=max_cost,
        max_seconds=max_seconds, out=out,
    )  # fmt: skip
    check_number("retries", retries, 0)
    if not isinstance(asynchronous, bool):
        raise NasplugError(f"asynchronous is True or False, got {asynchronous!r}")
    if asynchronous and workers is None:
        raise NasplugError("asynchronous is about workers: say how many, workers=4")
    crew = Workers.of(1 if workers is None else workers)
    options: dict[str, Any] = {
        "budget": budget, "seed": seed, "repeats": repeats, "isomorphs": isomorphs,
        "constraints": constraints, "max_cost": max_cost, "max_seconds": max_seconds,
        "objectives": objectives, "scalarise": scalarise,
        "at_once": crew.size, "asynchronous": asynchronous,
    }  # fmt: skip
    if on is None and space is None and model is None and isinstance(within, Path | str):
        on, space = searched(RunDirectory.open(within).run)
    chosen, name = find_method(method, hyperparameters)
    own = {"data": data, "loss": loss, "metric": metric, "optimizer": optimizer}
    opened = partial(
        Problem.of,
        on,
        space=marked(model, space),
        evaluate=evaluate,
        data=posed(**own, direction=direction),
        seed=seed,
    )
    problem = opened(
        direction=direction, evaluator=evaluator, reward=reward, report=report,
        scores_itself=hasattr(chosen, "evaluate"),
    )  # fmt: skip
    if fidelity is not None and hasattr(chosen, "evaluate"):
        raise NasplugError(f"{name} scores what it trains by itself: leave fidelity= away")
    problem.reach(fidelity)
    region = shrunk(problem.space, within) if isinstance(within, Path | str) else within
    first = None if init is None else Init(init, opened)
    options["latency"] = None if latency is None else table(problem.space, latency).content
    run = make_search(problem, chosen, name, within=region, init=first, plugins=plugins, **options)
    prune = {True: "median", False: None}[prune] if isinstance(prune, bool) else prune
    add_pruner(run, prune)
    parallel = None if workers is None else Parallel(run, crew, retries)
    directory = None
    if tracking or out:
        directory = RunDirectory.create(
            Path(out) if isinstance(out, Path | str) else free_directory(name, problem.name),
            {
                "method": name,
                "method_file": file_of(method),
                "hyperparameters": _written(getattr(chosen, "hyperparameters", hyperparameters)),
                "problem": on,
                "space": space_written(problem.space),
                "model": model if isinstance(model, str) else None,
                **{name: x if isinstance(x, str) else x is not None for name, x in own.items()},
                "direction": direction,
                "evaluator": evaluator,
                "reward": reward,
                "report": report,
                "fidelity": fidelity,
                "scores": {
                    "problem": run.problem.name,  # a supernet method may score in its own way
                    "evaluator": run.problem.evaluator_name,
                    "maximize": run.problem.maximize,
                    "reward": run.problem.reward,
                    "report": run.problem.report,
                    "apart": run.problem.apart,
                    "fidelity": run.problem.fidelity,
                    "held_out": getattr(run.problem.evaluator, "held_out", None),
                },
                "within": isinstance(region, Subspace),
                "init": first and first.name,
                "first": first and first.archs.tolist(),
                "prune": prune if isinstance(prune, str | None) else "",
                "workers": None if workers is None else crew.written,
                "retries": retries,
                "tracking": tracking,
                "options": jsonable(options, "options"),
                "environment": environment(),
            },
        )
        if isinstance(region, Subspace):
            region.save(directory.path / "within.npz")
    return _run(run, directory, parallel, tracking, progress)


def resume(
    run_dir: Path | str,
    *,
    method: Any = None,
    space: Space | None = None,
    model: Callable[[], Any] | str | None = None,
    evaluate: Callable[..., Any] | None = None,
    data: Any = None,
    loss: Any = None,
    metric: Any = None,
    optimizer: Any = None,
    prune: Any = None,
    workers: int | str | Executor | None = None,
    progress: bool | None = None,
    plugins: Sequence[Any] = (),
    **sources: Any,
) -> Selection:
    """Continue an interrupted search: the same trials as if it had never been interrupted.

    What cannot be written down (a method object, `evaluate`, `data` and what is learned of them,
    `model`, a Space of your own, a pruner or an executor, and `sources` of the method) has to be
    given again; other `workers`
    score the same trials. An asynchronous search goes on from all that was scored. Resuming a
    finished run replays it and returns its selection. NasplugError if another process searches it.
    """
    directory = RunDirectory.open(run_dir)
    run = directory.run
    if run["scores"]["evaluator"] == "function" and evaluate is None:
        raise NasplugError(
            f"{run_dir} scored archs with a function of yours: "
            "nasplug.resume(run_dir, evaluate=function)"
        )
    own = {"data": data, "loss": loss, "metric": metric, "optimizer": optimizer}
    for name, given in own.items():
        written = run.get(name)
        own[name] = written if given is None and isinstance(written, str) else given
        if written and own[name] is None:
            raise NasplugError(
                f"{run_dir} trained with {name} of yours: nasplug.resume(run_dir, {name}={name})"
            )
    workers = run["workers"] if workers is None else workers
    prune = run["prune"] if prune is None else prune
    for name, given, what in (("workers", workers, "executor"), ("prune", prune, "pruner")):
        if given == "":
            raise NasplugError(
                f"{run_dir} had an {what} object of yours: nasplug.resume(run_dir, {name}={what})"
            )
    if method is None:
        wanted = searched_by(run)
        cls = registry().get("method", wanted)
        for source in sources:
            if not isinstance(cls.declared().get(source), Source):
                raise NasplugError(f"{source} is no source of {run['method']}, and stays as it was")
        chosen, name = find_method(wanted, {**run["hyperparameters"], **sources})
    else:
        chosen, name = find_method(method, sources)
    on, space = searched(run, marked(model, space))
    problem = Problem.of(
        on, space=space, evaluate=evaluate, data=posed(**own, direction=run["direction"]),
        direction=run["direction"],
        evaluator=run["evaluator"], reward=run["reward"], report=run["report"],
        seed=run["options"]["seed"], scores_itself=hasattr(chosen, "evaluate"),
    )  # fmt: skip
    problem.reach(run["fidelity"])
    if problem.space.fingerprint != run["space"]["fingerprint"]:
        raise NasplugError(
            f"{run_dir} searched another space {run['space']['name']}: the decisions or their "
            "choices are not those of then"
        )
    region = load(problem.space, directory.path / "within.npz") if run["within"] else None
    first = None if run["first"] is None else Init(run["first"])
    continued = make_search(
        problem, chosen, name, within=region, init=first, plugins=plugins, **run["options"]
    )
    add_pruner(continued, prune)
    parallel = None
    if workers is not None:
        parallel = Parallel(continued, Workers.of(workers), run["retries"])
    return _run(continued, directory, parallel, run["tracking"], progress)


KINDS: dict[str, tuple[tuple[Any, ...], str]] = {
    **dict.fromkeys(
        ("on", "direction", "evaluator", "reward", "report", "repeats", "isomorphs"),
        ((str,), "a name"),
    ),
    **dict.fromkeys(("max_cost", "max_seconds"), ((int, float, np.number), "a number")),
    "within": ((Space, Subspace, Path, str), "a Subspace or a run directory"),
    "out": ((Path, str, bool), "a folder, or True for a new one"),
}


def check_kinds(**arguments: Any) -> None:
    """What is no kind of thing that an argument can be, nor None, is a NasplugError."""
    for name, value in arguments.items():
        kinds, words = KINDS[name]
        if value is not None and not (isinstance(value, kinds) and str(value).strip()):
            raise NasplugError(f"{name} must be {words}, got {value!r}")


def make_search(
    problem: Problem,
    method: Any,
    name: str,
    *,
    init: Init | None = None,
    plugins: Sequence[Any] = (),
    constraints: Sequence[str] = (),
    objectives: Sequence[str] = (),
    scalarise: Any = None,
    latency: Given | None = None,
    **options: Any,
) -> Search:
    """A search of the kernel, kept to constraints, with its first archs, after one objective or
    several."""
    if not isinstance(plugins, list | tuple):
        raise NasplugError(f"plugins is a list of objects with hooks, got {plugins!r}")
    own: list[Any] = [Latency(latency), Constraints(constraints)]
    if objectives:
        own.append(_late("objectives", "Objectives")(objectives, scalarise))
    elif scalarise is not None:
        raise NasplugError("scalarise is about several objectives=")
    if init is not None:
        own.append(init)
    return Search(problem, method, name, plugins=[*own, *plugins], **options)


def add_pruner(search: Search, pruner: Any) -> None:
    """Let a pruner stop hopeless trials; None for none."""
    if pruner is None:
        return
    search.pruner = _late("prune", "Pruner")(search, pruner)


def _late(module: str, name: str) -> Any:
    """What needs a package that only those install who use it."""
    try:
        return getattr(import_module(f"nasplug.run.{module}"), name)
    except ImportError as error:
        raise lacking(module, error) from None


def _run(
    search: Search,
    directory: RunDirectory | None,
    parallel: Parallel | None,
    tracking: bool,
    progress: bool | None,
) -> Selection:
    """Run a search with its workers, its progress bar, its reports and its tracker."""
    with ExitStack() as ends:
        if directory is not None:
            ends.callback(directory.close)
            directory.lock()
            replay = Replay(search, directory)
            end = ends.enter_context(status_kept(directory))
            if tracking:
                registry().get("tracker", "mlflow")(directory.path)
        if parallel is not None:
            ends.callback(parallel.close)
        with bar(search, progress), traced(search):
            selection = search.run()
        if directory is not None:
            weights.keep(selection, directory.path)
            with suppress(OSError):  # it has something in it, or there is none
                search.checkpoints.rmdir()
            end |= {
                "stopped": search.stopped, "seconds": search.elapsed, "rounds": search.round,
                "table": reports.write(selection, directory.path, replay.table),
            }  # fmt: skip
    return selection


@contextmanager
def status_kept(directory: RunDirectory) -> Iterator[dict[str, Any]]:
    """Keep status.json, from which others learn whether the search goes on or how it ended; what
    is put into the dict that this yields is said at its end."""
    end: dict[str, Any] = {}
    directory.set_status("running")
    try:
        yield end
    except BaseException as error:
        state, said = "killed", type(error).__name__  # Ctrl-C, SystemExit
        if isinstance(error, Exception):
            state, said = "failed", f"{said}: {error}"
        try:
            directory.set_status(state, said)
        except NasplugError as unwritten:
            if state == "failed":
                raise NasplugError(f"{error}; {unwritten}") from error
        raise
    directory.set_status("finished", **end)


def find_method(method: Any, hyperparameters: Mapping[str, Any]) -> tuple[Any, str]:
    """A method object and its name, from a name with hyperparameters or from the object itself."""
    if isinstance(method, str):
        cls = registry().get("method", method)
        declared: Mapping[str, Any] = getattr(cls, "declared", dict)()
        if taken := set(declared) & set(inspect.signature(search).parameters):
            raise NasplugError(
                f"{method}: hyperparameter {min(taken)!r} is an option of nasplug.search; "
                "it needs another name"
            )
        return cls(**hyperparameters), name_of(method)
    if hyperparameters:
        names = ", ".join(hyperparameters)
        raise NasplugError(f"give {names} to the method object itself")
    if isinstance(method, type):
        raise NasplugError(f"give a method object, {method.__name__}(...), not its class")
    return method, type(method).__name__


def name_of(method: str) -> str:
    """By what runs and studies are named: a method of a file by its class."""
    named: bool = method in registry().methods
    return method if named else str(registry().get("method", method).__name__)


def file_of(method: Any) -> dict[str, str] | None:
    """The file that a method is named by, as run.json holds it: a run is resumed from wherever one
    stands."""
    source = from_file.parse(method) if isinstance(method, str) else None
    if source is None:
        return None
    return {"path": str(source[0]), "checksum": from_file.checksum(source[0])}


def searched_by(run: Mapping[str, Any]) -> str:
    """The name of the method of run.json, as `find_method` takes it; NasplugError if it is of a
    file that is not as it was."""
    file = run.get("method_file")
    if not file:
        return str(run["method"])
    path = Path(file["path"])
    if not path.exists() or from_file.checksum(path) != file["checksum"]:
        raise NasplugError(
            f"{path}, the file of {run['method']}, "
            f"{'has changed since' if path.exists() else 'is gone'}: put it back as it was, or go "
            "on with another method, nasplug.resume(run_dir, method=...)"
        )
    return f"{path}:{run['method']}"


def shrunk(space: Space, run_dir: Path | str) -> Subspace:
    """The subspace that a run ended with; NasplugError if it ended with archs alone."""
    file = RunDirectory.open(run_dir).path / "subspace.npz"
    if not file.exists():
        raise NasplugError(
            f"{run_dir} did not end with a space: "
            "it ended with archs, not with a subspace to search within"
        )
    return load(space, file)


def _written(tree: Any) -> Any:
    """Hyperparameters and choices for run.json: what JSON cannot hold by its text."""

    def text(leaf: Any) -> Any:
        try:
            return jsonable(leaf, "")
        except NasplugError:
            return str(leaf)

    return map_leaves(text, tree)
