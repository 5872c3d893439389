"""Whether a plugin behaves: ``nasplug check``."""

from __future__ import annotations

import sys
from typing import Any

import click

from nasplug._version import __version__
from nasplug.cli.options import as_json
from nasplug.cli.output import show_json
from nasplug.kernel.problem import problem
from nasplug.kernel.problem import space as named
from nasplug.kernel.registry import first_line, plug, plugin_manager, registry
from nasplug.run.api import find_method
from nasplug.testing import Check, Result, evaluator_checks, method_checks, results, space_checks

MARKS = {"ok": ("ok", "green"), "failed": ("FAIL", "red"), "not applicable": ("n/a", "yellow")}


@click.command()
@click.argument("name", metavar="METHOD | FILE.py:Class | SPACE | SPACE/DATA")
@click.option("--card", is_flag=True, help="Print a card in Markdown: paper, hooks, versions.")
@as_json
def check(name: str, card: bool, as_json: bool) -> None:
    """Whether a method, a space, or what scores a problem, behaves as everything else expects.

    Each check says what it expects; one that fails, what happened and how to mend it. Nothing is
    downloaded or written. Exit code 2 if any failed.
    """
    plugin, checks = find(name)
    found: list[Result] = []
    for result in results(checks):
        found.append(result)
        if not (as_json or card):
            show(result)
    failed = any(result.state == "failed" for result in found)
    if card:
        click.echo("\n".join(lines(name, plugin, found)))
    elif as_json:
        rows = [result._asdict() for result in found]
        show_json({"plugin": name, "ok": not failed, "checks": rows})
    if failed:
        sys.exit(2)


def find(name: str) -> tuple[Any, list[Check]]:
    """What goes by a name, and its checks."""
    base = name.partition(":")[0]
    if base in registry().spaces and name not in registry().methods:
        return named(name), space_checks(name)
    if base.rpartition("/")[0] in registry().spaces or ("/" in name and ".py" not in name):
        opened = problem(name)
        return opened.evaluator, evaluator_checks(opened)
    method, _ = find_method(name, {})
    return method, method_checks(name)


def show(result: Result) -> None:
    mark, color = MARKS[result.state]
    click.echo(f"{click.style(f'{mark:>4}', fg=color)}  {result.name}: {result.expected}")
    if result.found:
        click.echo(f"      {result.found}")
    if result.fix:
        click.echo(f"      -> {result.fix}")


def lines(name: str, plugin: Any, found: list[Result]) -> list[str]:
    """The card of a plugin in Markdown."""
    manager = plugin_manager()
    facts = {"Paper": getattr(plugin, "paper", "")}
    if hasattr(plugin, "declared"):
        plug(manager, plugin)
        hooks = (caller.name for caller in manager.get_hookcallers(plugin) or ())
        facts["Hooks"] = ", ".join(f"`{hook}`" for hook in hooks)
        facts["Hyperparameters"] = ", ".join(f"`{one}`" for one in plugin.declared())
    entries = {**registry().spaces, **registry().methods}
    if entry := entries.get(name.partition(":")[0]):
        facts["Distribution"] = f"{entry.plugin.name} {entry.plugin.version}"
    counted = {state: sum(one.state == state for one in found) for state in MARKS}
    facts["Checks"] = (
        f"{counted['ok']} passed, {counted['failed']} failed, {counted['not applicable']} do not "
        f"apply, with nasplug {__version__}"
    )
    table = [f"| `{one.name}` | {one.state} | {one.expected} |" for one in found]
    return [
        f"## {name}", "", first_line(plugin), "",
        *(f"- {fact}: {text}" for fact, text in facts.items() if text), "",
        "| check | result | what it says |", "| --- | --- | --- |", *table,
    ]  # fmt: skip
