"""``nasplug report``."""

from __future__ import annotations

from pathlib import Path

import click

from nasplug.cli.output import show_fact
from nasplug.reports.api import report as write


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="DIR|EXPERIMENT...")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="FILE",
    help="report.html, one page that needs nothing else; or table.md or table.tex for a paper.",
)  # fmt: skip
def report(sources: tuple[str, ...], out: Path) -> None:
    """What searches, studies and comparisons came to: a page, or a table for a paper.

    Takes directories of runs, studies and comparisons, and names of MLflow experiments.
    """
    show_fact("report", write(sources, out))
