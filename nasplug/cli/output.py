"""How commands print: tables for people on stdout, one JSON line for machines, words on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

INTERRUPTED = 130  # the exit code that shells give it
WIDTH = 400  # columns where the output is no terminal: nothing wraps, so that grep works
LARGE = 10**9  # written as a power of ten from here on


class Interrupted(click.ClickException):
    """Ctrl-C or SIGTERM in the middle of a search; the message says how to go on."""

    exit_code = INTERRUPTED

    def show(self, file: Any = None) -> None:
        say(f"\n{self.message}")


def say(text: str) -> None:
    """Words for the person who watches; never in the way of what a program reads."""
    print(text, file=sys.stderr, flush=True)  # click.echo would write across the progress bar


def show_fact(name: str, value: object, stderr: bool = False) -> None:
    """A line such as ``run directory: runs/x``, if there is a value."""
    if value:
        click.echo(f"{name + ':':15}{value}", err=stderr)


def show_json(content: Any) -> None:
    """One line on stdout, strictly JSON."""
    click.echo(json.dumps(content, allow_nan=False, default=str))


def show_rows(
    rows: Sequence[dict[str, Any]], as_json: bool = False, *, stderr: bool = False
) -> None:
    """A list of like dictionaries, as JSON or as a table without the columns that are empty."""
    if as_json:
        show_json(rows)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = [name for name in (rows[0] if rows else ()) if any(_cell(row[name]) for row in rows)]
    for name in columns:
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        cells = [Text(_cell(row[name]), "red" if name == "error" else "") for name in columns]
        table.add_row(*cells)
    watched = (sys.stderr if stderr else sys.stdout).isatty()
    Console(stderr=stderr, width=None if watched else WIDTH).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if value < LARGE else f"{value:.3g}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < LARGE else f"{value:.5g}"
    return "" if value is None else str(value)
