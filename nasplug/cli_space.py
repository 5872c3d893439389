"""The commands about spaces: ``nasplug locality`` and ``nasplug space``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from nasplug import NasplugError
from nasplug.api import shrunk
from nasplug.journal import RunDirectory
from nasplug.problem import Problem, problem
from nasplug.subspace import Layered, Region

PICTURES = ("edf.png", "diversity.png", "coverage.png")

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON line.")
queries = click.option(
    "--queries", type=click.IntRange(min=2), metavar="N",
    help="Archs to score; by default thousands where a table scores them, else it must be said.",
)  # fmt: skip
seed = click.option("--seed", type=int, default=0, show_default=True)
folder = click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Where the pictures go."
)


@click.command()
@click.option("--on", required=True, metavar="SPACE/DATA", help="Problem.")
@queries
@seed
@folder
@as_json
def locality(on: str, queries: int | None, seed: int, out: Path | None, as_json: bool) -> None:
    """Whether few edits change little: autocorrelation, differences, the edit distance to use."""
    from nasplug.api import runs_folder
    from nasplug.cli import show_json, show_rows
    from nasplug.locality import draw, farthest, measure
    from nasplug.quality import picture, rewards

    target = problem(on)
    walks = _queries(target, queries, 20_000) // (2 * farthest(target.space) + 1)
    if walks < 2:
        raise NasplugError(
            f"two walks take {4 * farthest(target.space) + 2} queries, got {queries}"
        )
    found = measure(target.space, rewards(target), walks, seed)
    columns = {name: np.asarray(x).tolist() for name, x in asdict(found).items()}
    file = (out or runs_folder() / f"locality-{on.replace('/', '-')}") / "locality.png"
    picture(file, lambda figure: draw(found, target.evaluator.reward, figure))
    if as_json:
        show_json({"problem": on, "walks": walks, **columns})
        return
    names = ("edits", "rwa", "rwa_error", "aad", "aad_error")
    rows = zip(*(columns[name] for name in names), strict=True)
    show_rows([dict(zip(names, row, strict=True)) for row in rows])
    click.echo(
        f"suggested: neighbors at most {found.third} edits away (a third of all, as in the paper); "
        f"the correlation length is {found.suggested}"
    )
    if file.exists():
        click.echo(f"picture: {file}")


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "--vs", multiple=True, type=click.Path(path_type=Path), metavar="RUN_DIR",
    help="Another run to compare with; repeatable.",
)  # fmt: skip
@queries
@click.option(
    "--supernet", type=click.IntRange(min=1), metavar="EPOCHS",
    help="Train a small supernet on each space, too, and see how well it ranks 100 of its archs.",
)  # fmt: skip
@seed
@folder
@as_json
def space(
    run_dir: Path, vs: tuple[Path, ...], queries: int | None, supernet: int | None, seed: int,
    out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """The quality of the spaces that runs ended with, against the whole; pictures in RUN_DIR."""
    from nasplug.cli import show_json, show_rows
    from nasplug.quality import FREE, costs, for_people, report, reports

    target = _problem(run_dir)
    regions = {_name(path): shrunk(target.space, path) for path in (run_dir, *vs)}
    if len(regions) <= len(vs):
        raise NasplugError("the runs to compare need names of their own: some are given twice")
    layers = [region for region in regions.values() if isinstance(region, Layered)]
    if layers and not (queries or supernet) and target.evaluator_name not in FREE:
        if as_json:
            show_json({"problem": target.name, "spaces": [
                {"name": name, "size": region.size, "layers": region.names()}
                for name, region in regions.items() if isinstance(region, Layered)
            ]})  # fmt: skip
            return
        for region in layers:
            show_layers(region)
        pictures = sorted(str(file) for file in run_dir.glob("*.png"))
        click.echo(f"pictures: {' '.join(pictures)}")
        click.echo("--queries N scores N archs, for the quality of the space")
        return
    n = _queries(target, queries, 20_000)
    more: dict[str, Any] = {"predictor": _left(run_dir).get("predictor")}
    if supernet:
        more["one_shot"] = _one_shot(target, {"whole": target.space, **regions}, supernet, seed)
    rows = report(
        target.space, regions, reports(target), costs(target), target.evaluator.report,
        out or run_dir, n, seed, **more,
    )  # fmt: skip
    if as_json:
        show_json({"problem": target.name, "spaces": rows, **more})
        return
    show_rows([for_people(row) for row in rows])
    if supernet:
        click.echo(f"a supernet trained on each for {supernet} epochs, and archs ranked by it:")
        show_rows(more["one_shot"])
    files = [(out or run_dir) / name for name in PICTURES]
    click.echo(f"pictures: {' '.join(str(file) for file in files if file.exists())}")


def _one_shot(
    target: Problem, regions: dict[str, Region], epochs: int, seed: int
) -> list[dict[str, Any]]:
    from nasplug.quality import reports

    try:
        from nasplug.nn import data
        from nasplug.nn.ranking import one_shot
    except ImportError as error:
        raise NasplugError(f"--supernet needs {error.name}: pip install 'nasplug[torch]'") from None
    images = data.load(target.data, seed)
    return [
        one_shot(region, images, reports(target), name=name, epochs=epochs, seed=seed)
        for name, region in regions.items()
    ]


def show_layers(region: Layered, stderr: bool = False) -> None:
    """The choices of each layer, best first."""
    from nasplug.cli import show_rows

    click.echo(region.describe(), err=stderr)
    rows = [{"layer": i, "choices": ", ".join(names)} for i, names in enumerate(region.names())]
    show_rows(rows, stderr=stderr)


def show_quality(run_dir: Path, stderr: bool) -> None:
    """The quality table that a search which shrinks the space has left, if it has."""
    from nasplug.cli import show_rows
    from nasplug.quality import for_people

    if not (found := _left(run_dir)):
        return
    if ranks := found["predictor"]:
        words = ", ".join(f"{name} {value:.3f}" for name, value in ranks.items())
        click.echo(
            f"the predictor, on scored archs that it had not learned from: {words}", err=stderr
        )
    click.echo(f"the space, judged by {found['judged_by']}:", err=stderr)
    show_rows([for_people(row) for row in found["spaces"]], stderr=stderr)


def _left(run_dir: Path) -> dict[str, Any]:
    """What the search that shrank the space, or `nasplug space`, has written of it; or {}."""
    file = run_dir / "space.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _problem(run_dir: Path) -> Problem:
    _, run = RunDirectory.open(run_dir)
    if run["problem"] is None:
        raise NasplugError(
            f"{run_dir} scored archs with a function; only Python can score them again: "
            "nasplug.quality.compare"
        )
    return problem(run["problem"], run["evaluator"], run["reward"], run["report"],
                   run["options"]["seed"])  # fmt: skip


def _name(run_dir: Path) -> str:
    return run_dir.resolve().name


def _queries(target: Problem, asked: int | None, free: int) -> int:
    """How many archs to score: as many as asked, or `free` if they cost nothing."""
    from nasplug.quality import FREE

    if asked is None and target.evaluator_name not in FREE:
        raise NasplugError(
            f"{target.name} is scored by {target.evaluator_name}, which takes its time: "
            "say how many archs with --queries N"
        )
    return asked or free
