"""``nasplug run`` and ``nasplug resume``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

from nasplug.cli.options import (
    BUDGET,
    Command,
    check_own,
    json_last,
    latency,
    own_options,
    own_problem,
    parse_settings,
    problem_options,
    read_best,
    run_directory,
    seed,
    sigterm_as_ctrl_c,
    track,
)
from nasplug.cli.output import Interrupted, loading, say, show_fact, show_json, show_rows
from nasplug.cli.space import show_layers, show_quality, show_ranks
from nasplug.cli.tracking import show_run
from nasplug.hookspecs import hookimpl
from nasplug.kernel.registry import registry
from nasplug.kernel.search import Search
from nasplug.kernel.selection import Selection
from nasplug.kernel.subspace import Layered, Region
from nasplug.run.api import resume as continue_search
from nasplug.run.api import search
from nasplug.run.directory import RunDirectory
from nasplug.run.report import brief, table

SUPERNET = "supernet"  # the method that trains one
SHOWN = 10  # archs in the table that a run ends with
FRONT = 15  # of the front


def settings_of(method: str) -> Callable[[Command], Command]:
    """``--set``: what `parse_settings` reads."""
    return click.option(
        "--set", "settings", multiple=True, metavar="NAME=VALUE",
        help=f"A hyperparameter of the method (see `nasplug show {method}`); repeatable.",
    )  # fmt: skip


out = click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR",
    help="The run directory (default: a new one under runs/).",
)  # fmt: skip
workers = click.option(
    "--workers", metavar="N | ENGINE",
    help="Score archs N at a time, each in a process of its own, or with the workers of an engine "
    "such as dask:tcp://scheduler:8786.",
)  # fmt: skip


@click.command()
@click.argument("method")
@problem_options
@own_options
@click.option("--budget", type=int, default=BUDGET, show_default=True, help="Trials.")
@seed
@settings_of("METHOD")
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE",
    help="Hyperparameters that `nasplug tune` found: its best.json; --set overrides them.",
)  # fmt: skip
@click.option(
    "--repeats", type=click.Choice(["free", "count"]), default="free", show_default=True,
    help="Whether an arch proposed again costs a trial.",
)  # fmt: skip
@click.option(
    "--isomorphs", type=click.Choice(["shared", "apart"]),
    help="Whether isomorphic archs have one score (default: apart where a table has several).",
)  # fmt: skip
@click.option(
    "--objective", "objectives", multiple=True, metavar="[-]NAME",
    help="One of several things to search for; - for what shall be small; repeatable.",
)  # fmt: skip
@click.option(
    "--scalarise", type=click.Choice(["chebyshev", "linear", "pareto"]),
    help="What several objectives are to the method (default: pareto if it can, else chebyshev).",
)  # fmt: skip
@latency
@click.option(
    "--init", metavar="PROXY | FILE | RUN_DIR",
    help="What is tried first: the best of random archs by an evaluator such as proxy:naswot, the "
    "archs of a file, or those that a run selected.",
)  # fmt: skip
@click.option("--max-cost", type=float, help="Stop at this cost, in seconds of the benchmark.")
@click.option("--max-seconds", type=float, help="Stop after this time.")
@click.option(
    "--prune",
    metavar="PRUNER",
    help="Stop hopeless trials as one of Optuna's pruners says: median, hyperband, "
    "'successivehalving(min_resource=2)' ...",
)
@workers
@click.option(
    "--asynchronous", is_flag=True,
    help="A worker that is free gets the next arch at once; no two searches are alike.",
)  # fmt: skip
@click.option(
    "--retries", type=click.IntRange(min=0), default=1, show_default=True,
    help="How often a trial is scored again whose worker dies.",
)  # fmt: skip
@out
@track
@json_last
def run(
    method: str,
    on: str | None,
    settings: tuple[str, ...],
    config: Path | None,
    within: Path | None,
    model: str | None,
    data: str | None,
    out: Path | None,
    track: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Search with METHOD for a good architecture."""
    check_own(model, data)
    loading(f"{method} on {on or model}" if on or model else method)
    if options["init"]:
        loading(f"first archs: {options['init']}")
    hyperparameters = parse_settings(method, settings)
    if config is not None:
        hyperparameters = {**read_best(method, config), **hyperparameters}
    with _interruptible() as witness:
        selection = search(
            method,
            on or (None if within or model else own_problem(method)),
            within=within,
            model=model,
            data=data,
            out=out or True,
            tracking=track,
            plugins=[witness],
            **options,
            **hyperparameters,
        )
    _finish(selection, track, as_json)


@click.command("train-supernet")
@problem_options
@own_options
@seed
@settings_of(SUPERNET)
@out
@track
@json_last
@click.pass_context
def train_supernet(context: click.Context, /, **options: Any) -> None:
    """Train a supernet and search nothing: what `--evaluator supernet:RUN_DIR` scores by.

    The same as `nasplug run supernet` with a budget of as many epochs as --set epochs=N says.
    """
    epochs = registry().get("method", SUPERNET).declared()["epochs"]
    given = parse_settings(SUPERNET, options["settings"])
    budget = epochs.parse(given.get("epochs", epochs.default))
    context.invoke(run, method=SUPERNET, budget=budget, **options)


@click.command()
@run_directory
@workers
@json_last
def resume(run_dir: Path, workers: str | None, as_json: bool) -> None:
    """Continue an interrupted search: the same trials as if it had never been interrupted."""
    run = RunDirectory.open(run_dir).run
    loading(run["method"])
    tracked = bool(run["tracking"])
    with _interruptible() as witness:
        selection = continue_search(run_dir, workers=workers, plugins=[witness])
    _finish(selection, tracked, as_json)


def _finish(selection: Selection, tracked: bool, as_json: bool) -> None:
    """What a search ends with: the best archs, and where its picture and record are."""
    if selection.search.objectives is not None:
        show_front(selection.front, stderr=as_json)
    else:
        show_rows(table(selection, SHOWN), stderr=as_json, apart="arch")
    if ranks := getattr(selection.search.problem.evaluator, "held_out", None):
        show_ranks(ranks, stderr=as_json)
    run = None
    if directory := selection.run_dir:
        show_quality(directory, stderr=as_json)
        if isinstance(selection.subspace, Layered):
            show_layers(selection.subspace, stderr=as_json)
        pictures = sorted(str(file) for file in directory.glob("*.png"))
        show_fact("pictures", " ".join(pictures), as_json)
        if tracked:
            run = show_run(directory, as_json)
    if as_json:
        show_json({**brief(selection), "mlflow_run_id": run})


def show_front(front: Any, stderr: bool) -> None:
    """The best compromises, evenly picked if there are many."""
    rows = front.rows()
    picked = {round(i) for i in np.linspace(0, len(rows) - 1, FRONT)}
    picked |= {i for i, row in enumerate(rows) if row["knee"]}
    show_rows([rows[i] for i in sorted(picked)], stderr=stderr, apart="arch")
    reference = ", ".join(f"{x:.4g}" for x in front.reference)
    volume = f"hypervolume {front.hypervolume:.5g} against {reference}"
    show_fact("front", f"{len(rows)} archs, {volume}", stderr)


class _Witness:
    """Sees the search from its first round on, so that an interruption can say where it stands."""

    search: Search | None = None

    @hookimpl(tryfirst=True)
    def sample_space(self, search: Search) -> Region | None:
        if self.search is None and search.folder:
            say(f"run directory: {search.folder}")
        self.search = search
        return None

    def __str__(self) -> str:
        if self.search is None:
            return "interrupted before the first trial"
        done = f"interrupted after {self.search.finished} trials"
        return f"{done}; continue with: nasplug resume {self.search.folder}"


@contextmanager
def _interruptible() -> Iterator[_Witness]:
    """Ctrl-C and SIGTERM end the search with a word on how to go on."""
    witness = _Witness()
    try:
        with sigterm_as_ctrl_c():
            yield witness
    except KeyboardInterrupt:
        raise Interrupted(str(witness)) from None
