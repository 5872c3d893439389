"""The one error that is meant for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NasplugError(Exception):
    """Something the user can mend: the message names the thing and the fix.

    The command line prints it without a traceback and exits with code 2.
    """


def unknown(
    kind: str, name: str, known: Iterable[str], fix: str = "", prefix: str = ""
) -> NasplugError:
    """An error for a name that is not there, offering the nearest names that are.

    prefix: common to all of them, so that it does not make them near.
    """
    known = sorted(known)
    lower = {one.lower(): one for one in known}
    near = [lower[one] for one in difflib.get_close_matches(name.lower(), lower, cutoff=0.5)]
    names = [prefix + one for one in near or known]
    hint = f"did you mean {' or '.join(names)}?" if near else f"known: {', '.join(names) or 'none'}"
    return NasplugError(f"unknown {kind} {prefix + name!r}; {hint}{f' ({fix})' if fix else ''}")
