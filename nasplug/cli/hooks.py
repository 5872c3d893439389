"""Which hooks each plugin implements, and in which order a search calls them."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from nasplug import hookspecs
from nasplug.errors import NasplugError
from nasplug.kernel.registry import Plugin, plug, plugin_manager, registry
from nasplug.kernel.search import _Cache, _Defaults
from nasplug.run.parallel import Parallel
from nasplug.run.replay import Replay

REGISTERED = ("methods", "spaces", "evaluators", "trackers", "executors")


class Hooks:
    """Of everything that is installed, as if one search had it all.

    A search has one method and one evaluator, and those that are no plugin's; plugins of the
    user's, ``plugins=[mine]``, are called before the method and the evaluator, and what wraps a
    hook before all others.
    """

    def __init__(self) -> None:
        self.manager = plugin_manager()
        self.errors: dict[str, str] = {}  # of what does not load
        self._owners: dict[int, Plugin] = {}
        # In the order of `Search`: pluggy calls first what came last.
        self._add("default", "", _Defaults)
        for kind in ("evaluator", "method"):
            for name, entry in reversed(getattr(registry(), f"{kind}s").items()):
                try:
                    cls = registry().get(kind, name)
                except NasplugError as error:
                    self.errors[entry.plugin.name] = str(error)
                else:
                    self._owners[id(cls)] = entry.plugin
                    self._add(kind, name, cls)
        self._add("cache", "", _Cache)
        self._add("workers", "", Parallel)
        self._add("journal", "", Replay)

    def _add(self, role: str, name: str, cls: type) -> None:
        if not self.manager.is_registered(cls):  # one class may have two names
            plug(self.manager, cls, f"{role}:{name}")

    def of(self, plugin: Plugin) -> list[str]:
        """Those that a plugin implements: of the announcements, and of a search."""
        found = [
            f"register_{kind}"
            for kind in REGISTERED
            if any(entry.plugin is plugin for entry in getattr(registry(), kind).values())
        ]
        for hook, calls in self._calls().items():
            if any(self._owners.get(id(call.plugin)) is plugin for call in calls):
                found.append(hook)
        return found

    def calls(self) -> list[dict[str, Any]]:
        """A row per hook of a search and per step in which it is called."""
        rows = []
        for hook, calls in self._calls().items():
            steps = groupby(calls, lambda call: (call.plugin_name.partition(":")[0], _manner(call)))
            for place, ((role, manner), step) in enumerate(steps, 1):
                names = [call.plugin_name.partition(":")[2] for call in step]
                rows.append(
                    {"hook": hook, "place": place, "by": role, "how": manner, "which": names}
                )
        return rows

    def _calls(self) -> dict[str, list[Any]]:
        """{hook of a search: its implementations, the first to be called first}."""
        hooks = vars(self.manager.hook)
        return {
            name: hooks[name].get_hookimpls()[::-1]
            for name in vars(hookspecs)  # in the order of the page
            if name in hooks and not name.startswith("register_")
        }


def _manner(call: Any) -> str:
    """How an implementation is marked."""
    marks = {"wraps": call.wrapper, "first": call.tryfirst, "last": call.trylast}
    return " ".join(word for word, marked in marks.items() if marked)
