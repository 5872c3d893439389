"""``nasplug compare`` and ``nasplug ablate``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nasplug.cli.options import (
    BUDGET,
    PROBLEM,
    json_last,
    latency,
    sigterm_as_ctrl_c,
    together,
    track,
)
from nasplug.cli.output import Interrupted, loading, say, show_fact, show_json, show_rows
from nasplug.cli.tracking import show_run
from nasplug.comparison import Comparison
from nasplug.comparison import ablate as compare_variants
from nasplug.comparison import compare as compare_methods
from nasplug.comparison.report import notes, rows, summary

# What holds for all searches of a comparison.
comparison_options = together(
    click.option(
        "--on", multiple=True, metavar="SPACE/DATA", required=True,
        help=f"Problem, such as {PROBLEM}; repeatable.",
    ),
    click.option(
        "--budget", type=int, default=BUDGET, show_default=True, help="Trials per search."
    ),
    click.option("--seeds", type=int, default=10, show_default=True, help="Per method."),
    click.option("--max-cost", type=float, help="Per search, in seconds of the benchmark."),
    click.option("--max-seconds", type=float, help="Per search."),
    click.option(
        "--constraint", "constraints", multiple=True, metavar="'flops<=300e6'",
        help="On params, flops, latency ('latency<=5ms') or a metric of the problem; repeatable.",
    ),
    latency,
    click.option(
        "--evaluator", help="How archs are scored: table, train ... (default: the best)."
    ),
    click.option("--reward", metavar="COLUMN", help="What the methods maximize."),
    click.option("--report", metavar="COLUMN", help="What is compared, unseen by them."),
    click.option(
        "--workers", metavar="N | ENGINE",
        help="Searches at a time, each in a process of its own (default: one per core), or "
        "an engine such as dask:tcp://scheduler:8786.",
    ),
    click.option(
        "--out", type=click.Path(path_type=Path), metavar="DIR",
        help="The comparison directory (default: runs/compare-..., named after what is "
        "compared).",
    ),
    track,
    json_last,
)  # fmt: skip


@click.command()
@click.argument("methods", nargs=-1, metavar="METHOD[:NAME=VALUE,...] ...")
@comparison_options
def compare(methods: tuple[str, ...], **options: Any) -> None:
    """Compare METHODs at equal budgets, seed by seed.

    A METHOD may have hyperparameters, METHOD:size=4,rate=0.1, be of a file,
    hill_climber.py:HillClimber, and go by a name of yours: 'smaller=METHOD:size=2'. Searches are
    kept: more methods or seeds cost what is new, and an interrupted comparison goes on by the same
    command.
    """
    _show(compare_methods, list(methods), **options)


@click.command()
@click.argument("method", metavar="METHOD[:NAME=VALUE,...]")
@comparison_options
def ablate(method: str, **options: Any) -> None:
    """Compare METHOD with the variants of itself that it declares as ablations."""
    _show(compare_variants, method, **options)


def _show(
    function: Callable[..., Comparison], what: Any, on: tuple[str, ...], track: bool, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    loading(what if isinstance(what, str) else ", ".join(what))
    try:
        with sigterm_as_ctrl_c():
            comparison = function(what, list(on), tracking=track, **options)
    except KeyboardInterrupt as error:
        raise Interrupted(str(error) or "interrupted") from None
    for problem in comparison.problems:
        say_or_print = say if as_json else click.echo
        say_or_print(problem)
        show_rows(rows(comparison, problem), stderr=as_json)
        say_or_print("")
    for note in notes(comparison):
        say(note)
    folder = comparison.path
    pictures = sorted(str(file) for file in folder.glob("*.png"))
    show_fact("pictures", " ".join(pictures), as_json)
    show_fact("comparison", folder, as_json)
    run = show_run(folder, as_json) if track else None
    if as_json:
        show_json({**summary(comparison), "mlflow_run_id": run})
