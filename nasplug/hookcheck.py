"""What is wrong with the hooks of a plugin, and what to write instead: pluggy says it to those who
know pluggy, or says nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pluggy

from nasplug.errors import NasplugError, unknown

LOOP = ("sample_space", "propose", "evaluate", "update", "select_final")  # of a search


def fault(manager: pluggy.PluginManager, plugin: Any) -> NasplugError | None:
    """The first mistake: a hook that does not exist, or is not marked, or takes arguments that are
    not passed, or yields where it should not, or does not where it should."""
    named = isinstance(plugin, ModuleType | type)
    who = plugin.__name__ if named else type(plugin).__name__
    hooks = vars(manager.hook)
    for name in dir(plugin):
        options: Any = manager.parse_hookimpl_opts(plugin, name)
        if options is None:
            if name in LOOP and not named and inspect.ismethod(getattr(plugin, name)):
                return NasplugError(f"{who}.{name} is no hook yet: mark it with @nasplug.hookimpl")
            continue
        hook = options["specname"] or name
        if hook not in hooks:
            return unknown("hook", hook, hooks, f"of plugin {who}")
        takes = hooks[hook].spec.argnames
        for argument in _arguments(getattr(plugin, name)):
            if argument not in takes:
                write = f"def {name}({', '.join(('self', *takes))})"
                return unknown(
                    f"argument of {who}.{name}", argument, takes,
                    f"write `{write}`, or those of them that it needs",
                )  # fmt: skip
        wraps, yields = options["wrapper"] or options["hookwrapper"], _yields(plugin, name)
        if wraps and not yields:
            return NasplugError(
                f"{who}.{name} wraps the hook, so somewhere it has to let the others answer: "
                "`answer = yield`, and `return answer`"
            )
        if yields and not wraps:
            return NasplugError(
                f"{who}.{name} yields, as what wraps a hook: mark it with "
                "@nasplug.hookimpl(wrapper=True)"
            )
    return None


def _yields(plugin: Any, name: str) -> bool:
    return inspect.isgeneratorfunction(inspect.unwrap(getattr(plugin, name)))


def _arguments(function: Callable[..., Any]) -> list[str]:
    """Those that pluggy passes: by name, without a default."""
    parameters = inspect.signature(function).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in positional and p.default is p.empty]
    return [name for name in names if name != "self"]  # which the hooks of a class still have
