"""How commands print: tables for people on stdout, one JSON line for machines, words on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any, Literal

import click

from nasplug.reports.text import cell

INTERRUPTED = 130  # the exit code that shells give it
WIDTH = 400  # columns where the output is no terminal: nothing wraps, so that grep works


class Interrupted(click.ClickException):
    """Ctrl-C or SIGTERM in the middle of a search; the message says how to go on."""

    exit_code = INTERRUPTED

    def show(self, file: Any = None) -> None:
        say(f"\n{self.message}")


def say(text: str) -> None:
    """Words for the person who watches; never in the way of what a program reads."""
    print(text, file=sys.stderr, flush=True)  # click.echo would write across the progress bar


def loading(what: str) -> None:
    """Tells a person who watches why nothing happens yet: torch may take seconds to import."""
    if sys.stderr.isatty():
        say(f"loading {what} ...")


def show_fact(name: str, value: object, stderr: bool = False) -> None:
    """A line such as ``run directory: runs/x``, if there is a value."""
    if value:
        click.echo(f"{name + ':':15}{value}", err=stderr)


def show_json(content: Any) -> None:
    """One line on stdout, strictly JSON."""
    click.echo(json.dumps(content, allow_nan=False, default=str))


def show_rows(
    rows: Sequence[dict[str, Any]],
    as_json: bool = False,
    *,
    stderr: bool = False,
    apart: str = "",
) -> None:
    """A list of like dictionaries, as JSON or as a table without the columns that are empty.

    apart: a column of long texts, which goes beside the first one into a table of its own where
    the terminal is too narrow for all.
    """
    if as_json:
        show_json(rows)
        return
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    watched = (sys.stderr if stderr else sys.stdout).isatty()
    console = Console(stderr=stderr, width=None if watched else WIDTH)

    def drawn(columns: Sequence[str]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in columns:
            numeric = all(isinstance(row[name], int | float | None) for row in rows)
            justify: Literal["right", "left"] = "right" if numeric else "left"
            table.add_column(Text(name), justify=justify, overflow="fold")
        for row in rows:
            cells = [Text(cell(row[name]), "red" if name == "error" else "") for name in columns]
            table.add_row(*cells)
        return table

    columns = [name for name in (rows[0] if rows else ()) if any(cell(row[name]) for row in rows)]
    table, unbound = drawn(columns), console.options.update(max_width=10**6)
    if apart not in columns or Measurement.get(console, unbound, table).maximum <= console.width:
        console.print(table)
        return
    console.print(drawn([name for name in columns if name != apart]), end="\n\n")
    for row in rows:
        label = f"{cell(row[columns[0]]):>{len(columns[0])}}  "
        folded = fold(cell(row[apart]), console.width - len(label))
        console.print(
            Text("\n".join([label + folded[0], *(" " * len(label) + x for x in folded[1:])]))
        )


def fold(text: str, width: int) -> list[str]:
    """The lines of a long name, broken behind `|`, `+`, a comma or a blank if it has any.

    >>> fold("|conv_3x3~0|+|none~0|skip~1|", 20)
    ['|conv_3x3~0|+|', 'none~0|skip~1|']
    """
    lines = [""]
    for piece in re.findall(r"[|+,\s]+|[^|+,\s]+[|+,\s]*", text):
        if lines[-1] and len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return lines
