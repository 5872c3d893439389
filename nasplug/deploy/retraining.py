"""`nasplug.retrain`: the best arch of a run, trained in earnest into RUN_DIR/retrain."""

from __future__ import annotations

import csv
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from nasplug.analysis.pictures import draw_picture
from nasplug.deploy.export import to_export
from nasplug.deploy.fit import Epoch, fit
from nasplug.deploy.recipes import RECIPES, Recipe
from nasplug.deploy.winner import ABOUT, Winner
from nasplug.errors import NasplugError, check_number, unknown
from nasplug.kernel.registry import registry
from nasplug.kernel.selection import Selection
from nasplug.kernel.space import Space
from nasplug.nn.data import Images, layout
from nasplug.nn.training import default_device, initialise, to_device
from nasplug.nn.weights import save_weights
from nasplug.run import weights
from nasplug.run.api import status_kept
from nasplug.run.directory import RunDirectory, environment, write_json
from nasplug.run.progress import notebook
from nasplug.run.report import write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECIPE = "plain"
CURVE, CHECKPOINT, NETWORK = "curve.csv", "checkpoint.pt", "network.pt2"


@dataclass
class Retrained:
    """A network that was retrained. about: its retrain.json."""

    winner: Winner
    about: Mapping[str, Any]

    @property
    def path(self) -> Path:
        return self.winner.folder

    @property
    def result(self) -> dict[str, float]:
        """Metrics on the test data, the last loss, and the number of parameters."""
        return dict(self.about["result"])

    def model(self) -> nn.Module:
        """The network with its weights, to evaluate."""
        return self.winner.network().model


def retrain(
    run: Selection | Path | str,
    *,
    recipe: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    data: Any = None,
    space: Space | None = None,
    model: Callable[[], Any] | str | None = None,
    resume: bool = False,
    tracking: bool = True,
    progress: bool | None = None,
) -> Retrained:
    """Train the best arch of a finished run from scratch, on all data but those for the test.

    run: its directory, or its result. recipe: "plain" (the default), "darts" or "mobile"; epochs:
    others than the recipe's. data: as `nasplug.search` takes them; by default those that were
    searched on. space, model: as `nasplug.load` takes them. resume: go on with one that was
    interrupted, with the same weights in the end as if it never had been.

    What comes of it lies in RUN_DIR/retrain: weights.safetensors, retrain.json, curve.csv and
    curve.png; and in MLflow with tracking, the network in its registry of models. Raises
    NasplugError for whatever the user can mend.
    """
    winner = Winner.of(run, space, model)
    asked = {"recipe": recipe, "epochs": epochs, "seed": seed}
    about = _about(winner, resume, asked)
    chosen = replace(recipe_of(about["recipe"]), epochs=about["epochs"])
    images, name = winner.images(data)
    sized = images.size(winner.best.space)
    about["data"] = _same_data(about, images, name, winner.folder)
    learning = images.learning
    metric = f"test_{images.task.metric.name}"
    about |= {"settings": asdict(chosen), "space": sized.name, "metric": metric}

    folder = RunDirectory(winner.folder)
    with ExitStack() as ends:
        try:
            folder.path.mkdir(exist_ok=True)
        except OSError as error:
            raise NasplugError(f"cannot write {folder.path}: {error}") from None
        ends.callback(folder.close)
        folder.lock()
        write_json(folder.path / ABOUT, about)
        ends.enter_context(status_kept(folder))
        if tracking:
            registry().get("tracker", "mlflow")(folder.path)
        network = initialise(lambda: sized.build(winner.best.arch), about["seed"])
        network = to_device(network, default_device())
        rows = read_curve(folder.path)
        title = f"{about['recipe']} training of {winner.path.name}"
        show = ends.enter_context(_bar(title, metric, chosen.epochs, progress))

        def done(epoch: Epoch) -> None:
            rows[epoch.epoch - 1 :] = [epoch]
            write_csv(folder.path / CURVE, [Epoch._fields, *rows])
            show(epoch)

        trained = fit(
            network, learning, chosen, about["seed"], folder.path / CHECKPOINT, done
        ).cpu()
        save_weights(trained, folder.path / weights.FILE, winner.best.arch)
        draw_picture(
            folder.path / "curve.png", lambda figure: draw_curve(rows, title, metric, figure)
        )
        last = rows[-1]
        about["result"] = {
            "loss": last.loss, metric: last.test,
            "params": sum(p.numel() for p in trained.parameters()),
            "seconds": sum(row.seconds for row in rows),
        }  # fmt: skip
        if tracking:  # from which the tracking process makes a model of MLflow's
            with suppress(NasplugError):
                to_export(winner.retrained(about), folder.path / NETWORK)
        write_json(folder.path / ABOUT, about)
        (folder.path / CHECKPOINT).unlink()
    return Retrained(winner, about)


def recipe_of(name: str) -> Recipe:
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def _about(winner: Winner, resume: bool, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The retrain.json of a new retraining, or of the one that goes on."""
    there, command = winner.retraining, f"`nasplug retrain {winner.path} --resume`"
    if there and there["result"] is not None:
        raise NasplugError(
            f"{winner.folder} holds a finished retraining: delete it, or move it away, for another"
        )
    if there and not resume:
        raise NasplugError(
            f"{winner.folder} holds a retraining that has not finished: {command} goes on with it; "
            "or delete it"
        )
    if resume:
        if not there:
            raise NasplugError(f"{winner.path} has no retraining to go on with: leave resume away")
        for name, value in asked.items():
            if value not in (None, there[name]):
                raise NasplugError(
                    f"{winner.folder} is trained with {name} {there[name]}, not {value}: leave "
                    f"{name} away, or delete it"
                )
        return there
    recipe = asked["recipe"] or RECIPE
    epochs = recipe_of(recipe).epochs if asked["epochs"] is None else asked["epochs"]
    seed = asked["seed"] or 0
    check_number("epochs", epochs, 1)
    check_number("seed", seed, 0)
    return {
        "key": uuid.uuid4().hex, "search": winner.record(), "arch": winner.best.arch.tolist(),
        "recipe": recipe, "epochs": epochs, "seed": seed, "environment": environment(),
        "result": None,
    }  # fmt: skip


def _same_data(about: Mapping[str, Any], images: Images, name: str, folder: Path) -> dict[str, Any]:
    """What retrain.json says of the data; NasplugError if a retraining goes on with others."""
    said = {
        "name": name, "inputs": layout(images.example), "classes": images.num_classes,
        "dense": images.dense, "digest": images.digest,
    }  # fmt: skip
    before = about.get("data", said)
    if before["digest"] != said["digest"]:
        raise NasplugError(f"{folder} is trained on other data than these: give those of then")
    return {**said, "name": before["name"]}


# ---- what is seen of it


def read_curve(folder: Path) -> list[Epoch]:
    """The epochs of curve.csv; none if it is not there."""
    try:
        with (folder / CURVE).open(newline="") as file:
            return [
                Epoch(int(row["epoch"]), *(float(row[name]) for name in Epoch._fields[1:]))
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def draw_curve(rows: list[Epoch], title: str, metric: str, figure: Figure) -> None:
    """The loss and the metric on the test data, epoch by epoch."""
    left = figure.add_subplot()
    right = left.twinx()
    x = [row.epoch for row in rows]
    left.plot(x, [row.loss for row in rows], color="#9aa3ad", label="loss")
    right.plot(x, [row.test for row in rows], color="#2f6db5", label=metric)
    left.set(xlabel="epoch", ylabel="loss")
    left.locator_params("x", integer=True)
    right.set_ylabel(metric, color="#2f6db5")
    right.tick_params(axis="y", colors="#2f6db5")
    for ax in (left, right):
        ax.spines["top"].set_visible(False)
    left.grid(alpha=0.2)
    left.set_title(f"{title}, {metric} {rows[-1].test:.4g}", loc="left", weight="bold")


@contextmanager
def _bar(
    title: str, metric: str, epochs: int, show: bool | None
) -> Iterator[Callable[[Epoch], None]]:
    """A bar on stderr; by default on a terminal and in a notebook."""
    if show is False or (show is None and not (sys.stderr.isatty() or notebook())):
        yield lambda epoch: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn(),
        Remaining(), TextColumn("{task.fields[last]}"),
    )  # fmt: skip
    console = Console(stderr=True, force_jupyter=False, force_terminal=notebook() or None)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=epochs, last="")
        yield lambda epoch: progress.update(
            task, completed=epoch.epoch,
            last=f"loss {epoch.loss:.4g}, {metric} {epoch.test:.4g}",
        )  # fmt: skip
