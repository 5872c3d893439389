"""``nasplug new``: a distribution to begin with, rendered by copier from the template beside this
file. Nothing is downloaded."""

from __future__ import annotations

import re
from pathlib import Path

import click

import nasplug
from nasplug.errors import NasplugError, distribution_of, lacking
from nasplug.kernel.registry import registry

TEMPLATE = Path(__file__).with_name("template")
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
TRY = {
    "method": "nasplug run {} --on nb201/digits",
    "space": "nasplug run random --on {}/digits",
    "evaluator": "nasplug run random --on nb201/{}",
}


@click.command()
@click.argument("kind", type=click.Choice(list(TRY)))
@click.argument("name")
def new(kind: str, name: str) -> None:
    """Begin a method, a space or an evaluator of your own: in a new folder nasplug-NAME, a
    distribution that works, with tests, README and what else it takes to publish it."""
    if not NAME.fullmatch(name) or _class_of(name) in nasplug.__all__:
        raise NasplugError(
            f"{name!r} is no name for a plugin: small letters and digits, in words joined by "
            "hyphens, such as hill-climber, that are no class of nasplug"
        )
    if owner := _owner(name):
        raise NasplugError(f"the name {name!r} is taken by {owner}: choose another")
    folder = Path(f"nasplug-{name}")
    if folder.exists():
        raise NasplugError(f"the folder {folder} is there already: choose another name")
    try:
        from copier import run_copy
    except ImportError as error:
        raise lacking("nasplug new", error) from None
    answers = {
        "kind": kind, "name": name, "cls": _class_of(name),
        "module": f"nasplug_{name.replace('-', '_')}", "version": nasplug.__version__,
    }  # fmt: skip
    run_copy(str(TEMPLATE), folder, data=answers, quiet=True)
    click.echo(f"{folder} holds a small {kind} that works. To go on:\n")
    for line in (f"cd {folder}", 'pip install -e ".[test]"', "pytest", TRY[kind].format(name)):
        click.echo(f"  {line}")


def _class_of(name: str) -> str:
    """``"hill-climber"`` -> ``"HillClimber"``."""
    return "".join(word.capitalize() for word in name.split("-"))


def _owner(name: str) -> str:
    """The distribution that provides something of this name, or is called so; or ""."""
    for plugin in registry().plugins:
        if name in plugin.provides or plugin.name == f"nasplug-{name}":
            return plugin.name
    return distribution_of(name)
