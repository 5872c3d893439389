"""What there is: ``nasplug plugins``, ``list`` and ``show``."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import click

from nasplug.cli.data import by_pip
from nasplug.cli.options import as_json, own_problem
from nasplug.cli.output import loading, say, show_json, show_rows
from nasplug.errors import NasplugError
from nasplug.kernel.method import Hyperparameter
from nasplug.kernel.problem import problems as all_problems
from nasplug.kernel.problem import space
from nasplug.kernel.registry import WHERE_METHODS_ARE, registry


@click.command()
@click.option("--hooks", is_flag=True, help="Which hooks each has, and who is called when.")
@as_json
def plugins(hooks: bool, as_json: bool) -> None:
    """Installed plugins, what each provides, and why one failed to load."""
    found = registry().plugins
    rows = [
        {"name": p.name, "version": p.version, "provides": p.provides, "error": p.error}
        for p in found
    ]
    if not hooks:
        show_rows(rows, as_json)
        return
    loading("every plugin")
    known = import_module("nasplug.cli.hooks").Hooks()
    for row, plugin in zip(rows, found, strict=True):
        row |= {
            "hooks": known.of(plugin),
            "error": plugin.error or known.errors.get(plugin.name, ""),
        }
    if as_json:
        show_json({"plugins": rows, "calls": known.calls()})
        return
    show_rows([{name: row[name] for name in ("name", "version", "hooks", "error")} for row in rows])
    click.echo("\nIn a search, in the order in which they are called:\n")
    show_rows(known.calls())


@click.group("list")
def list_() -> None:
    """Methods, spaces or problems."""


@list_.command()
@as_json
def methods(as_json: bool) -> None:
    """Search methods; `nasplug show METHOD` tells all about one."""
    rows = [
        {"name": name, "doc": entry.doc, "distribution": entry.plugin.name}
        for name, entry in sorted(registry().methods.items())
    ]
    if not rows and not as_json:
        raise NasplugError(f"no method is installed: {WHERE_METHODS_ARE}")
    show_rows(rows, as_json)


@list_.command()
@as_json
def spaces(as_json: bool) -> None:
    """Search spaces."""
    rows = []
    for name, entry in sorted(registry().spaces.items()):
        found = space(name)
        rows.append({"name": name, "archs": found.count, "decisions": found.d, "doc": entry.doc})
    show_rows(rows, as_json)


@list_.command()
@as_json
def problems(as_json: bool) -> None:
    """What can be searched here and now, and by what archs are scored (the default first)."""
    show_rows(all_problems(), as_json)
    if not as_json:
        for line in by_pip():
            say(line)


@click.command()
@click.argument("method")
@as_json
def show(method: str, as_json: bool) -> None:
    """A method's paper and hyperparameters (each is a `--set NAME=VALUE` of `run`)."""
    cls = registry().get("method", method)
    declared: dict[str, Hyperparameter[Any]] = getattr(cls, "declared", dict)()
    about = {
        "name": method,
        "doc": inspect.cleandoc(cls.__doc__ or ""),
        "paper": getattr(cls, "paper", ""),
        "problem": own_problem(method),
        "hyperparameters": [_describe(one) for one in declared.values()],
        "ablations": {name: dict(s) for name, s in getattr(cls, "ablations", {}).items()},
    }
    if as_json:
        show_json(about)
        return
    click.secho(method, bold=True)
    click.echo(f"{about['doc']}\n")
    if about["paper"]:
        click.echo(f"Paper: {about['paper']}\n")
    table_rows = [
        {
            "hyperparameter": one.name,
            "type": type(one).__name__.lower(),
            "default": one.default,
            "bounds": one.bounds,
            "meaning": f"{one.doc}{f' (if {one.when})' if one.when else ''}",
        }
        for one in declared.values()
    ]
    show_rows(table_rows)


def _describe(one: Hyperparameter[Any]) -> dict[str, Any]:
    """A declaration as JSON; unbounded is null."""
    finite = {
        side: bound if abs(bound := getattr(one, side)) < float("inf") else None
        for side in ("low", "high")
        if hasattr(one, side)
    }
    more = {name: getattr(one, name) for name in ("log", "choices") if hasattr(one, name)}
    return {
        "name": one.name, "type": type(one).__name__.lower(), "default": one.default, **finite,
        **more, "doc": one.doc, "when": one.when, "tunable": one.tunable,
    }  # fmt: skip
