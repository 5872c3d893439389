"""Secrets: what a URL, a text or a command line may show of them, on disk and on screen."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote

LOCAL = ("sqlite", "file", "journal")  # a path follows, in which an @ is just a character
QUERY = re.compile(r"[?#;]")  # from here on a URL may hold a password or a token
ENVIRONMENT = re.compile(r"(TOKEN|PASSWORD|PASSWD|SECRET|KEY)$")  # variables that hold a secret
SHORTEST = 6  # characters of one: with SORT_KEY=1 in the environment a 1 is still a 1
# A URL in a text ends with a blank or a quotation mark, one that is an argument with it.
IN_TEXT = re.compile(r"""[A-Za-z][\w+.-]*://[^\s'"<>]+|[^\s:/'"<>=]+:[^\s'"<>]*@[^\s'"<>]+""")
ARGUMENT = re.compile(r"[A-Za-z][\w+.-]*://.*|[^\s:/=]+:.*@.*", re.DOTALL)


def redacted(url: str) -> str:
    """A URL with neither user, password nor query: ``https://me:secret@host/a?token=x`` is
    ``https://host/a?***``. Where it can be read in two ways, what is secret in either is gone.

    SQLAlchemy's own way shows passwords with an @, the user, and what the query says.
    """
    scheme, user, host = _split(url)
    if QUERY.search(user):  # a user with a question mark, or a query with an @?
        return f"{scheme}***"
    path = QUERY.split(host, maxsplit=1)
    return f"{scheme}{path[0]}{'?***' if len(path) > 1 else ''}"


def scrubbed(text: str, url: str = "") -> str:
    """A text, such as an error, without the secrets of this URL, of any URL that it quotes and of
    the environment."""
    known = {url: redacted(url)} if url else {}
    known |= dict.fromkeys(_secrets(url), "***")
    for secret in sorted(known, key=len, reverse=True):
        shown = known[secret].replace("\\", r"\\")
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", shown, text)
    return IN_TEXT.sub(lambda match: redacted(match[0]), text)


def command_line() -> list[str]:
    """What was asked for: the call of nasplug as it was parsed. Of a program of somebody's own it
    is the name alone, since nobody can tell which of its arguments are secret."""
    click: Any = sys.modules.get("click")  # without it, nobody came by the command line
    context = click and click.get_current_context(silent=True)
    if context is None or not type(context.find_root().command).__module__.startswith("nasplug."):
        return sys.argv[:1]
    call = context.command_path.split()
    for param in context.command.params:
        name = str(param.name)
        if context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        if isinstance(param, click.Option) and param.is_flag:
            call.append(param.opts[0] if value else param.secondary_opts[0])
            continue
        for one in value if isinstance(value, tuple) else [value]:
            shown = ARGUMENT.sub(lambda match: redacted(match[0]), str(one))
            call += [param.opts[0], shown] if isinstance(param, click.Option) else [shown]
    return call


def _split(url: str) -> tuple[str, str, str]:
    """``https://``, user and password, which may hold anything if they are not quoted, the rest."""
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        scheme, rest = "", url
    if scheme.partition("+")[0] in LOCAL and rest.startswith("/"):
        return scheme + slashes, "", rest
    user, _, host = rest.rpartition("@")
    return scheme + slashes, user, host


def _secrets(url: str) -> Iterator[str]:
    """All that `redacted` hides of a URL, and what the environment holds."""
    _, user, host = _split(url)
    query = QUERY.split(host, maxsplit=1)[1:]
    found = [user, user.partition(":")[2], *query]
    found += [value for part in query for _, value in parse_qsl(part)]
    found += [
        value
        for name, value in os.environ.items()
        if ENVIRONMENT.search(name) and len(value) >= SHORTEST
    ]
    for secret in found:
        yield from {secret, unquote(secret)} - {""}
