"""Discovery: distributions announce methods, spaces and evaluators by the entry point group
``nasplug``. One that fails to load does not keep the others from loading."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import pluggy

from nasplug import hookspecs
from nasplug.errors import NasplugError, unknown

BUILT_IN = ("nasplug.spaces", "nasplug.evaluators")
WHERE_METHODS_ARE = "every paper is a distribution of its own: pip install one of plugins/nasplug-*"


@dataclass
class Plugin:
    """A distribution that was found: where it comes from, what it gave, why it failed."""

    name: str
    version: str
    provides: list[str] = field(default_factory=list)
    error: str = ""


@dataclass
class Registry:
    """Everything that can be named."""

    methods: dict[str, Any] = field(default_factory=dict)
    spaces: dict[str, Any] = field(default_factory=dict)
    evaluators: dict[str, Any] = field(default_factory=dict)
    plugins: list[Plugin] = field(default_factory=list)

    def get(self, kind: str, name: str) -> Any:
        """What is registered under a name; NasplugError with the nearest names otherwise."""
        known = getattr(self, f"{kind}s")
        if name not in known:
            broken = [p.name for p in self.plugins if p.error]
            fix = f"plugins that failed to load: {', '.join(broken)}; see `nasplug plugins`"
            raise unknown(kind, str(name), known, fix if broken else "")
        return known[name]

    def load(self, plugin: Plugin, module: Any) -> None:
        """Call the register hooks of one plugin; a failure is noted on it, not raised."""
        manager = pluggy.PluginManager("nasplug")
        manager.add_hookspecs(hookspecs)
        manager.register(module)
        for kind in ("methods", "spaces", "evaluators"):
            table = getattr(self, kind)

            def register(name: str, thing: Any, table: dict[str, Any] = table) -> None:
                if name in table:
                    raise NasplugError(f"the name {name!r} is taken by another plugin")
                if taken := set(getattr(thing, "declared", dict)()) & _search_options():
                    raise NasplugError(
                        f"{name}: hyperparameter {min(taken)!r} is an option of nasplug.search; "
                        "it needs another name"
                    )
                table[name] = thing
                plugin.provides.append(name)

            getattr(manager.hook, f"register_{kind}")(register=register)


def _search_options() -> set[str]:
    """What `nasplug.search` takes itself, and would never hand on to a method."""
    from nasplug.api import search

    return set(inspect.signature(search).parameters)


@cache
def registry() -> Registry:
    """The registry, filled once per process."""
    from nasplug import __version__

    found = Registry()
    for name in BUILT_IN:
        found.plugins.append(plugin := Plugin(name, __version__))
        found.load(plugin, import_module(name))
    for point in sorted(entry_points(group="nasplug"), key=lambda point: point.name):
        version = point.dist.version if point.dist else ""
        found.plugins.append(plugin := Plugin(point.name, version))
        try:
            found.load(plugin, point.load())
        except Exception as error:  # whatever a foreign import raises
            plugin.error = f"{type(error).__name__}: {error}"
    return found
