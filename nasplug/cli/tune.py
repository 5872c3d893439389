"""``nasplug tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nasplug.cli.options import (
    BUDGET,
    check_own,
    json_last,
    latency,
    own_options,
    own_problem,
    parse_names,
    parse_settings,
    problem_options,
    seed,
    sigterm_as_ctrl_c,
    track,
)
from nasplug.cli.output import Interrupted, loading, show_fact, show_json, show_rows
from nasplug.cli.tracking import show_run
from nasplug.tuning import Study, report
from nasplug.tuning import tune as run_study


@click.command()
@click.argument("method")
@problem_options
@own_options
@latency
@click.option("--trials", type=int, default=50, show_default=True, help="Of the study, in all.")
@click.option("--seeds", type=int, default=5, show_default=True, help="Searches per trial.")
@click.option("--budget", type=int, default=BUDGET, show_default=True, help="Trials per search.")
@click.option(
    "--params", metavar="K,M,lr", help="What to tune (default: all that METHOD declares tunable)."
)
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE",
    help="A hyperparameter to hold at a value; repeatable.",
)  # fmt: skip
@click.option(
    "--objectives", default="value", show_default=True, metavar="value,cost",
    help="value, cost, seconds, params, flops or a metric of the problem.",
)  # fmt: skip
@click.option("--sampler", default="tpe", show_default=True, help="Optuna's: cmaes, gp, nsgaii ...")
@click.option("--pruner", default="median", show_default=True, help="Optuna's: wilcoxon, nop ...")
@click.option(
    "--storage", metavar="URL",
    help="sqlite:///FILE, postgresql://HOST/DATABASE or journal://FILE: machines that share it "
    "share the study (default: in the study directory).",
)  # fmt: skip
@click.option("--workers", type=int, default=1, show_default=True, help="Processes.")
@seed
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR",
    help="The study directory; one that is there is continued (default: a new one under runs/).",
)  # fmt: skip
@track
@json_last
def tune(
    method: str,
    on: str | None,
    settings: tuple[str, ...],
    params: str | None,
    objectives: str,
    model: str | None,
    track: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Find good hyperparameters of METHOD: an Optuna study of searches."""
    check_own(model, options["data"])
    loading(f"{method} on {on or model}" if on or model else method)
    fixed = parse_settings(method, settings)
    problem = on or (None if model or options["within"] else own_problem(method))
    try:
        with sigterm_as_ctrl_c():
            study = run_study(
                method, problem, objectives=parse_names(objectives), model=model, tracking=track,
                params=parse_names(params) if params is not None else None, **options, **fixed,
            )  # fmt: skip
    except KeyboardInterrupt as error:
        raise Interrupted(str(error).replace("out=", "--out ") or "interrupted") from None
    _finish(study, track, as_json)


def _finish(study: Study, tracked: bool, as_json: bool) -> None:
    """What a study ends with: the best hyperparameters beside the defaults, and where all is."""
    folder = study.directory
    show_rows(report.table(study), stderr=as_json)
    show_fact("best", folder / "best.json", as_json)
    show_fact("study", folder, as_json)
    run = show_run(folder, as_json) if tracked else None
    if as_json:
        show_json({**report.summary(study, folder), "mlflow_run_id": run})
