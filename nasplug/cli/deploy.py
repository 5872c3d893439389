"""``nasplug retrain``, ``nasplug evaluate`` and ``nasplug export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nasplug.cli.options import json_last, run_directory, sigterm_as_ctrl_c, track
from nasplug.cli.output import Interrupted, loading, show_fact, show_json, show_rows
from nasplug.cli.tracking import show_run
from nasplug.deploy.evaluation import evaluate as measure
from nasplug.deploy.export import FORMATS
from nasplug.deploy.export import export as write
from nasplug.deploy.recipes import RECIPES
from nasplug.deploy.retraining import RECIPE
from nasplug.deploy.retraining import retrain as train
from nasplug.tracking import wait

REGISTERED = 120.0  # seconds to wait until the network is in MLflow's registry

model = click.option(
    "--model", metavar="MODULE:NAME",
    help="Your own network with its choices marked in place, if the run does not name it.",
)  # fmt: skip
data = click.option(
    "--data", metavar="NAME | MODULE:NAME",
    help="The data (default: those that were searched on): digits, cifar10, or a function that "
    "returns them.",
)  # fmt: skip


@click.command()
@run_directory
@click.option("--epochs", type=int, help="Others than the recipe's.")
@click.option(
    "--recipe", metavar="|".join(RECIPES),
    help=f"How it is trained (default: {RECIPE}): "
    + ", ".join(f"{name} for {recipe.epochs} epochs" for name, recipe in RECIPES.items()) + ".",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with one that was interrupted.")
@data
@model
@click.option("--seed", type=click.IntRange(min=0), help="Of weights and batches (default: 0).")
@track
@json_last
def retrain(run_dir: Path, track: bool, as_json: bool, **options: Any) -> None:
    """Train the best arch of a finished run from scratch, in earnest.

    On all data but those for the test, into RUN_DIR/retrain.
    """
    loading(f"the winner of {run_dir}")
    try:
        with sigterm_as_ctrl_c():
            done = train(run_dir, tracking=track, **options)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; continue with: nasplug retrain {run_dir} --resume"
        ) from None
    show_rows([{"arch": done.about["search"]["choices"], **done.result}], stderr=as_json)
    show_fact("weights", done.path / "weights.safetensors", as_json)
    show_fact("picture", done.path / "curve.png", as_json)
    run = None
    if track:
        wait(REGISTERED)
        run = show_run(done.path, as_json)
    if as_json:
        show_json(
            {
                "run_dir": str(run_dir), "retrain_dir": str(done.path),
                "arch": done.about["search"]["choices"], "recipe": done.about["recipe"],
                "epochs": done.about["epochs"], **done.result, "mlflow_run_id": run,
            }
        )  # fmt: skip


@click.command()
@run_directory
@data
@model
@json_last
def evaluate(run_dir: Path, as_json: bool, **options: Any) -> None:
    """Measure the winner of a finished run on the test data.

    As it was retrained, if it was, or else with the weights that scored it.
    """
    loading(f"the winner of {run_dir}")
    found = measure(run_dir, **options)
    if as_json:
        show_json(found)
        return
    per_class = found.pop("per_class")
    show_rows([{**found, "arch": found.pop("arch")}], apart="arch")
    show_rows([{"class": k, "accuracy": x} for k, x in per_class.items()])


@click.command()
@run_directory
@click.option("--format", "format_", required=True, metavar="|".join(FORMATS), help="Of the file.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE")
@model
@json_last
def export(run_dir: Path, format_: str, out: Path, model: str | None, as_json: bool) -> None:
    """Write the winner of a finished run to a file for whoever has no nasplug.

    onnx, torch.export's .pt2, its state (safetensors, and JSON with the arch) or one Python file.
    """
    loading(f"the winner of {run_dir}")
    done = write(run_dir, format_, out, model=model)
    if as_json:
        show_json(done)
        return
    for file in done["files"]:
        show_fact("file", file)
    show_fact(
        "checked", f"outputs differ from the network's by at most {done['max_difference']:.2g}"
    )
