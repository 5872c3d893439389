"""The one error that is meant for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NasplugError(Exception):
    """Something the user can mend: the message names the thing and the fix.

    The command line prints it without a traceback and exits with code 2.
    """


def unknown(kind: str, name: str, known: Iterable[str], fix: str = "") -> NasplugError:
    """An error for a name that is not there, offering the nearest names that are."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
    return NasplugError(f"unknown {kind} {name!r}; {hint}{f' ({fix})' if fix else ''}")
