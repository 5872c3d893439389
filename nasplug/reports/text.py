"""Tables as text: cells as people read them, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nasplug.run.markup import in_latex, in_markdown

LARGE = 10**9  # written as a power of ten from here on


def cell(value: Any) -> str:
    """A number or a text as people read it."""
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if value < LARGE else f"{value:.3g}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < LARGE else f"{value:.5g}"
    return "" if value is None else str(value)


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that hold anything."""
    return [name for name in (rows[0] if rows else ()) if any(cell(row[name]) for row in rows)]


def numeric(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a column is one of numbers, which stand on the right."""
    return all(isinstance(row[name], int | float | None) or "±" in str(row[name]) for row in rows)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """In it nothing of a name is markup."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def text(value: Any) -> str:
        return in_markdown(cell(value))

    names = columns(rows)
    rules = ["---:" if numeric(rows, name) else "---" for name in names]
    body = [line([text(row[name]) for name in names]) for row in rows]
    return "\n".join([line([text(name) for name in names]), line(rules), *body]) + "\n"


def latex(rows: Sequence[Mapping[str, Any]]) -> str:
    """A tabular with the rules of the package booktabs."""

    def text(value: Any) -> str:
        return in_latex(cell(value))

    def line(cells: Sequence[Any]) -> str:
        return " & ".join(map(text, cells)) + r" \\"

    names = columns(rows)
    shape = "".join("r" if numeric(rows, name) else "l" for name in names)
    body = [line([row[name] for name in names]) for row in rows]
    return "\n".join([
        rf"\begin{{tabular}}{{{shape}}}", r"\toprule", line(names), r"\midrule", *body,
        r"\bottomrule", r"\end{tabular}", "",
    ])  # fmt: skip
