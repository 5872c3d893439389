"""Optuna's samplers and pruners by name."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from nasplug.errors import NasplugError, unknown

# GridSampler refuses trials that were enqueued (brute force does the same without a list), and
# what PartialFixedSampler does, fixed hyperparameters do.
LEFT_OUT = ("GridSampler", "PartialFixedSampler")


def by_name(module: Any, kind: str, text: str, **defaults: Any) -> Any:
    """``by_name(optuna.samplers, "Sampler", "tpe(multivariate=True)", seed=3)`` -> a TPESampler
    with these options, and with those of the defaults that it knows."""
    name, options = _parse(text, kind.lower())
    classes = {
        word.removesuffix(kind).lower(): getattr(module, word)
        for word in module.__all__
        if word.endswith(kind) and word not in LEFT_OUT
        if not inspect.isabstract(getattr(module, word))
    }
    if name.lower() not in classes:
        raise unknown(kind.lower(), name, classes)
    cls = classes[name.lower()]
    known = inspect.signature(cls).parameters
    for option, value in options.items():
        if option == "seed":
            raise NasplugError(f"{text!r}: the seed is that of the study, as seed=3")
        if option in known and not _fits(value, str(known[option].annotation)):
            raise NasplugError(
                f"{kind.lower()} {text!r}: {option} cannot be {value!r}; Optuna wants "
                f"{known[option].annotation}"
            )
    try:
        return cls(**{key: value for key, value in defaults.items() if key in known} | options)
    except (TypeError, ValueError) as error:
        raise NasplugError(
            f"{kind.lower()} {text!r}: {error}; options are given as {name}(option=value), and "
            f"Optuna's {cls.__name__} takes {', '.join(known)}"
        ) from None


def _fits(value: Any, hint: str) -> bool:
    """Whether a value is what a type hint says: Optuna itself takes anything. Whole numbers are
    counts there, never negative."""
    types = {"bool": (bool,), "int": (int,), "float": (int, float)}.get(hint.partition(" ")[0])
    if types is None or (value is None and "None" in hint):
        return True
    return type(value) in types and not (types == (int,) and value < 0)


def _parse(text: str, kind: str) -> tuple[str, dict[str, Any]]:
    """``name(option=1, other='x')`` -> the name and the options, which are literals."""
    try:
        match ast.parse(text, mode="eval").body:
            case ast.Name(id=name):
                return name, {}
            case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords):
                return name, {str(k.arg): ast.literal_eval(k.value) for k in keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass
    raise NasplugError(f"a {kind} is a name such as tpe or nop, or name(option=1); got {text!r}")
