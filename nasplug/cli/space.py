"""The commands about spaces: ``nasplug locality`` and ``nasplug space``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from nasplug.analysis.pictures import draw_picture
from nasplug.cli.options import as_json, seed
from nasplug.cli.output import show_json, show_rows
from nasplug.errors import NasplugError, lacking
from nasplug.kernel.problem import Problem, problem
from nasplug.kernel.subspace import Layered, Region
from nasplug.run.api import shrunk
from nasplug.run.directory import QUALITY, RunDirectory, read_json, runs_folder

PICTURES = ("edf.png", "diversity.png", "coverage.png")

queries = click.option(
    "--queries", type=click.IntRange(2, 10**7), metavar="N",
    help="Archs to score; by default thousands where a table scores them, else it must be said.",
)  # fmt: skip
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
    try:
        from nasplug.analysis import locality as analysis
    except ImportError as error:
        raise lacking("locality", error) from None
    target = problem(on)
    walks = _queries(target, queries, 20_000) // (2 * analysis.farthest(target.space) + 1)
    if walks < 2:
        raise NasplugError(
            f"two walks take {4 * analysis.farthest(target.space) + 2} queries, got {queries}"
        )
    found = analysis.measure(target.space, lambda archs: target.score(archs).values, walks, seed)
    columns = {name: np.asarray(x).tolist() for name, x in asdict(found).items()}
    folder = out or runs_folder() / f"locality-{on.replace('/', '-')}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NasplugError(f"cannot write {folder}: {error}; choose another with --out") from None
    file = folder / "locality.png"
    draw_picture(file, lambda figure: analysis.draw(found, target.reward, figure))
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
    try:
        from nasplug.analysis import quality
    except ImportError as error:
        raise lacking("the quality of a space", error) from None

    target = _problem(run_dir)
    regions = {_name(path): shrunk(target.space, path) for path in (run_dir, *vs)}
    if len(regions) <= len(vs):
        raise NasplugError("the runs to compare need names of their own: some are given twice")
    layers = [region for region in regions.values() if isinstance(region, Layered)]
    if layers and not (queries or supernet) and not target.free:
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
    rows = quality.report(
        target.space, regions, quality.reports(target), quality.costs(target), target.report,
        (out or run_dir) / "space.json", n, seed, **more,
    )  # fmt: skip
    if as_json:
        show_json({"problem": target.name, "spaces": rows, **more})
        return
    _show_spaces(rows)
    if supernet:
        click.echo(f"a supernet trained on each for {supernet} epochs, and archs ranked by it:")
        show_rows(more["one_shot"])
    files = [(out or run_dir) / name for name in PICTURES]
    click.echo(f"pictures: {' '.join(str(file) for file in files if file.exists())}")


def _one_shot(
    target: Problem, regions: dict[str, Region], epochs: int, seed: int
) -> list[dict[str, Any]]:
    try:
        from nasplug.analysis.quality import reports
        from nasplug.analysis.ranking import one_shot
        from nasplug.nn.datasets import by_name
    except ImportError as error:
        raise lacking("--supernet", error) from None
    images = by_name(target.data, seed)
    return [
        one_shot(region, images, reports(target), name=name, epochs=epochs, seed=seed)
        for name, region in regions.items()
    ]


def show_layers(region: Layered, stderr: bool = False) -> None:
    """The choices of each layer, best first."""
    click.echo(region.describe(), err=stderr)
    rows = [{"layer": i, "choices": ", ".join(names)} for i, names in enumerate(region.names())]
    show_rows(rows, stderr=stderr)


def show_ranks(ranks: Mapping[str, float], stderr: bool) -> None:
    """How well a predictor ranks."""
    words = ", ".join(f"{name} {value:.3f}" for name, value in ranks.items())
    click.echo(f"the predictor, on scored archs that it had not learned from: {words}", err=stderr)


def show_quality(run_dir: Path, stderr: bool) -> None:
    """The quality table that a search which shrinks the space has left, if it has."""
    if not (found := _left(run_dir)):
        return
    if ranks := found["predictor"]:
        show_ranks(ranks, stderr)
    click.echo(f"the space, judged by {found['judged_by']}:", err=stderr)
    _show_spaces(found["spaces"], stderr)


def _left(run_dir: Path) -> dict[str, Any]:
    """What the search that shrank the space, or `nasplug space`, has written of it; or {}."""
    return read_json(run_dir / "space.json", QUALITY)


def _show_spaces(rows: Sequence[Mapping[str, Any]], stderr: bool = False) -> None:
    """What was measured, a line each, and a column per space: side by side on any terminal."""
    spaces = [_for_people(row) for row in rows]
    measured = dict.fromkeys(name for one in spaces for name in one if name != "space")
    show_rows(
        [{"": name, **{one["space"]: one[name] for one in spaces}} for name in measured],
        stderr=stderr,
    )


def _for_people(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is shown of a space, with the interval of the mean beside it."""
    shown = {name: row[name] for name in ("space", "size", "reduction", "queried", "mean")}
    if row["mean_interval"]:
        shown["mean"] = "{:.5g} ({:.5g} to {:.5g})".format(row["mean"], *row["mean_interval"])
    names = (
        "max", "good", "shrink_index", "edf_area", "ks", "mean_distance", "max_distance",
        "coverage",
    )  # fmt: skip
    return shown | {name: row[name] for name in names}


def _problem(run_dir: Path) -> Problem:
    run = RunDirectory.open(run_dir).run
    if run["problem"] is None:
        raise NasplugError(
            f"{run_dir} scored archs with a function or data of yours; only Python can score them "
            "again: nasplug.analysis.compare"
        )
    return problem(run["problem"], run["evaluator"], run["reward"], run["report"],
                   run["options"]["seed"])  # fmt: skip


def _name(run_dir: Path) -> str:
    return run_dir.resolve().name


def _queries(target: Problem, asked: int | None, free: int) -> int:
    """How many archs to score: as many as asked, or `free` if they cost nothing."""
    if asked is None and not target.free:
        raise NasplugError(
            f"{target.name} is scored by {target.evaluator_name}, which takes its time: "
            "say how many archs with --queries N"
        )
    return asked or free
