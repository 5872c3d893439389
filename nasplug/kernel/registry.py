"""Discovery: distributions announce methods, spaces and evaluators by the entry point group
``nasplug``. One that fails to load does not keep the others from loading."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from nasplug import from_file, hookcheck, hookspecs
from nasplug._version import __version__
from nasplug.errors import NasplugError, distribution_of, lacking, unknown
from nasplug.kernel.method import Method

BUILT_IN = ("nasplug.spaces", "nasplug.evaluators", "nasplug.tracking")
WHERE_METHODS_ARE = "every paper is a distribution of its own: pip install one of plugins/nasplug-*"


@dataclass
class Plugin:
    """A distribution that was found: where it comes from, what it gave, why it failed."""

    name: str
    version: str
    provides: list[str] = field(default_factory=list)
    error: str = ""


@dataclass
class Entry:
    """Something registered by name: ``"module:Class"``, imported when it is used, or a class."""

    target: Any
    doc: str
    plugin: Plugin


@dataclass
class Registry:
    """Everything that can be named: {name: entry} by kind."""

    methods: dict[str, Entry] = field(default_factory=dict)
    spaces: dict[str, Entry] = field(default_factory=dict)
    evaluators: dict[str, Entry] = field(default_factory=dict)
    trackers: dict[str, Entry] = field(default_factory=dict)
    executors: dict[str, Entry] = field(default_factory=dict)
    plugins: list[Plugin] = field(default_factory=list)

    def get(self, kind: str, name: str) -> Any:
        """What is registered under a name, such as ``get("method", "random")``, or a method of a
        file, ``get("method", "hill_climber.py:HillClimber")``.

        NasplugError with the nearest names if there is none, or with the command that installs
        what its module needs.
        """
        if kind == "method" and (source := from_file.parse(str(name))):
            return from_file.load_class(*source, Method)
        known: dict[str, Entry] = getattr(self, f"{kind}s")
        if name not in known:
            broken = [f"{p.name}, {p.error}" for p in self.plugins if p.error]
            fix = f"plugins that failed to load: {'; '.join(broken)}; see `nasplug plugins`"
            home = "" if kind == "space" else distribution_of(str(name))
            raise unknown(kind, str(name), known, fix if broken else "", brought_by=home)
        entry = known[name]
        if isinstance(entry.target, str):
            module, _, attribute = entry.target.partition(":")
            try:
                entry.target = getattr(import_module(module), attribute)
            except ImportError as error:
                raise lacking(f"{kind} {name}", error) from None
            except AttributeError:
                raise NasplugError(
                    f"{kind} {name}: {module} of {entry.plugin.name} has no {attribute}"
                ) from None
        return entry.target

    def load(self, plugin: Plugin, module: Any) -> None:
        """Call the register hooks of one plugin."""
        manager = plugin_manager()
        plug(manager, module)
        for kind in ("methods", "spaces", "evaluators", "trackers", "executors"):
            register = partial(self._register, plugin, getattr(self, kind))
            getattr(manager.hook, f"register_{kind}")(register=register)

    def _register(
        self, plugin: Plugin, table: dict[str, Entry], name: str, target: Any, doc: str = ""
    ) -> None:
        if name in table:
            raise NasplugError(f"the name {name!r} is taken by {table[name].plugin.name}")
        if not isinstance(target, str):
            doc = doc or first_line(target)
        table[name] = Entry(target, doc, plugin)
        plugin.provides.append(name)


def plugin_manager() -> pluggy.PluginManager:
    """An empty one that knows the hooks."""
    manager = pluggy.PluginManager("nasplug")
    manager.add_hookspecs(hookspecs)
    return manager


def plug(manager: pluggy.PluginManager, plugin: Any, name: str | None = None) -> None:
    """Register a plugin; NasplugError if there is something wrong with its hooks, or if it has none
    or is there already."""
    if error := hookcheck.fault(manager, plugin):
        raise error
    try:
        manager.register(plugin, name)
    except ValueError as known:
        raise NasplugError(f"plugin {type(plugin).__name__}: {known}") from None
    if not (manager.get_hookcallers(plugin) or hasattr(plugin, "setup")):
        raise NasplugError(f"plugin {plugin!r} implements no hook: mark it with @hookimpl")


def first_line(thing: Any) -> str:
    """The first line of a docstring."""
    return inspect.cleandoc(thing.__doc__ or "").partition("\n")[0]


@cache
def registry() -> Registry:
    """The registry, filled once per process."""
    found = Registry()
    sources: list[tuple[Plugin, Callable[[], Any]]] = [
        (Plugin(name, __version__), partial(import_module, name)) for name in BUILT_IN
    ]
    for point in sorted(entry_points(group="nasplug"), key=lambda point: point.name):
        name, version = (point.dist.name, point.dist.version) if point.dist else (point.name, "")
        sources.append((Plugin(name, version), partial(_load, point)))
    for plugin, load in sources:
        found.plugins.append(plugin)
        try:
            found.load(plugin, load())
        except Exception as error:  # whatever a foreign import raises
            kind = "" if isinstance(error, NasplugError) else f"{type(error).__name__}: "
            plugin.error = f"{kind}{error}"
    return found


def _load(point: EntryPoint) -> Any:
    if point.dist:
        import_module("nasplug.requirements").check_made_for_us(point.dist)
    return point.load()
