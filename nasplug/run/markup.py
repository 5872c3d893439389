"""Text in the markup of tables for people: nothing of a name is markup."""

from __future__ import annotations

import re

LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}  # fmt: skip


def in_markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]()#|~<>])", r"\\\1", " ".join(text.split()))


def in_latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))
