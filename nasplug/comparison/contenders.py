"""Contender: a method with hyperparameters, as it takes part in a comparison."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nasplug import from_file
from nasplug.errors import NasplugError
from nasplug.kernel.method import Method
from nasplug.kernel.registry import registry
from nasplug.kernel.tree import jsonable
from nasplug.run.api import find_method, name_of


@dataclass(frozen=True, eq=False)
class Contender:
    """name: by which tables and pictures call it. method, given: as `nasplug.search` takes them."""

    name: str
    method: str
    given: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str, name: str = "") -> Contender:
        """From ``METHOD``, ``METHOD:size=4,rate=0.1``, ``hill_climber.py:Mine:explore=0.3``, each
        with ``NAME=`` before it if it is to go by another name."""
        if not isinstance(text, str) or not text.strip():
            raise NasplugError(
                f"a method is named, as 'NAME' or 'NAME:SETTING=VALUE,...'; got {text!r}"
            )
        label, equals, rest = text.partition("=")
        if equals and ":" not in label:
            name, text = name or label.strip(), rest
        method, *settings = re.split(r":(?=[^:=]+=)", text.strip(), maxsplit=1)
        parts = re.split(r",(?=\s*\w+\s*=)(?![^(]*\))", "".join(settings))
        pairs = (part.partition("=") for part in parts if part)
        given = {key.strip(): value.strip() for key, _, value in pairs}
        written = ",".join(f"{key}={value}" for key, value in given.items())
        own = name or ":".join(filter(None, [name_of(method), written]))
        return cls(" ".join(own.split()), method, given)

    def make(self) -> Method:
        """A fresh method object; NasplugError for what the method does not take."""
        made: Method = find_method(self.method, self.given)[0]
        return made

    @property
    def about(self) -> dict[str, Any]:
        """What is noted of it: all of its hyperparameters, and whether it trains a supernet, so
        that a trial is an epoch and not an arch."""
        made = self.make()
        hyperparameters = jsonable(getattr(made, "hyperparameters", {}), self.name)
        return {"hyperparameters": hyperparameters, "trains": hasattr(made, "evaluate")}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """By what its searches are known again, without loading it: torch takes seconds."""
        return {
            "method": name_of(self.method),
            "given": jsonable(dict(self.given), self.name),
            "version": version_of(self.method),
        }


def contenders(given: Iterable[str] | Mapping[str, str | Contender]) -> list[Contender]:
    """Methods as `compare` takes them: a list of texts, or {name: text}."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise NasplugError(f"methods are a list such as ['NAME', 'OTHER'], got {given!r}")
    pairs = given.items() if isinstance(given, Mapping) else (("", text) for text in given)
    found = [
        replace(one, name=name) if isinstance(one, Contender) else Contender.parse(one, name)
        for name, one in pairs
    ]
    names = [one.name for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise NasplugError(
            f"two methods go by the name {twice}: give one of them another, as in 'mine={twice}'"
        )
    if marked := next((name for name in names if not name[:1].isalnum()), None):
        raise NasplugError(f"a method is called by a name that begins with a letter: {marked!r}")
    if len(found) < 2:
        raise NasplugError(
            "a comparison is of two methods or more, as in: nasplug compare METHOD OTHER"
        )
    return found


def variants(method: str) -> dict[str, Contender]:
    """{name: a method as it is, and with each of the settings that it declares as ablations}."""
    whole = Contender.parse(method)
    cls = registry().get("method", whole.method)
    declared: Mapping[str, Mapping[str, Any]] = getattr(cls, "ablations", {})
    if not declared:
        raise NasplugError(
            f"{whole.name} declares no ablations: a class attribute of the method, such as "
            'ablations = {"without the graph": {"graph": False}}'
        )
    changed = {name: replace(whole, given={**whole.given, **declared[name]}) for name in declared}
    return {whole.name: whole, **changed}


def version_of(method: str) -> str:
    """The version of the distribution and a digest of its code, which an editable installation
    changes without another version; of a method of a file, the digest of that."""
    if source := from_file.parse(method):
        return f"file+{from_file.checksum(source[0])[:12]}"
    entry = registry().methods[method]
    target = entry.target if isinstance(entry.target, str) else entry.target.__module__
    return f"{entry.plugin.version}+{_digest(target.partition(':')[0].partition('.')[0])[:12]}"


@cache
def _digest(package: str) -> str:
    """Of the files of a package, which need not be loaded."""
    spec, digest = find_spec(package), hashlib.sha256()
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in sorted(Path(folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
