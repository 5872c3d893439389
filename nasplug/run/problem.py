"""What is searched: a space or a network of the user's own, data and what is to be learned of them;
as `nasplug.search` is given it, as run.json holds it, and found again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from math import isfinite
from typing import Any

from nasplug.errors import NasplugError, lacking
from nasplug.kernel.problem import Problem
from nasplug.kernel.problem import space as named
from nasplug.kernel.space import Space
from nasplug.run.imported import imported, loaded


def marked(model: Callable[[], Any] | str | None, space: Space | None = None) -> Space | None:
    """The space of a network of the user's own, or of its name; that which a function returns; if
    there is no model, the other one."""
    if model is None:
        return space
    if space is not None:
        raise NasplugError("give space= or model=, not both: a model has a space of its own")
    factory = imported(model) if isinstance(model, str) else model
    if inspect.isfunction(factory) and isinstance(made := factory(), Space):
        return made
    try:
        found: Space = import_module("nasplug.spaces.marked.space").space_of(factory)
    except ImportError as error:
        raise lacking("model", error) from None
    return found


def described(
    *, space: Space | None, model: Callable[[], Any] | str | None, data: Any, loss: Any,
    metric: Any, optimizer: Any, direction: str, **rest: Any,
) -> Problem:  # fmt: skip
    """`Problem.of`, where a model and data may be there, and by name."""
    data = posed(data, loss, metric, optimizer, direction)
    return Problem.of(space=marked(model, space), data=data, direction=direction, **rest)


def posed(data: Any, loss: Any, metric: Any, optimizer: Any, direction: str) -> Any:
    """Data, by name or as they are; with what is to be learned of them, if that is said, a
    `nasplug.nn.Given`."""
    own = {"loss": loss, "metric": metric, "optimizer": optimizer}
    if data is None:
        for name, given in own.items():
            if given is not None:
                raise NasplugError(f"{name}= is about data=, on which networks are trained")
        return None
    named = {
        name: imported(given) if isinstance(given, str) and ":" in given else given
        for name, given in own.items()
    }
    data = loaded(data) if isinstance(data, str) and ":" in data else data
    if direction == "maximize" and not any(given is not None for given in own.values()):
        return data
    try:
        given = import_module("nasplug.nn.datasets").Given
    except ImportError as error:
        raise lacking("data", error) from None
    return given(data, **named, maximize=direction == "maximize")


def space_written(space: Space) -> dict[str, Any]:
    """A space for run.json: by its name, the data whose sizes it has and a fingerprint; a plain
    one by its decisions as well, if JSON gives them back as they are; one for an example of the
    data by its shape and type."""
    plain = type(space) is Space and all(_same_in_json(list(c)) for c in space.decisions.values())
    return {
        "name": space.name, "data": getattr(space, "data", ""), "fingerprint": space.fingerprint,
        "decisions": space.decisions if plain else None, "inputs": getattr(space, "inputs", None),
    }  # fmt: skip


def _same_in_json(tree: Any) -> bool:
    """Whether it comes back equal and of the same type: not a tuple, a class, a numpy number."""
    if type(tree) is dict:
        return all(type(key) is str and _same_in_json(value) for key, value in tree.items())
    if type(tree) is list:
        return all(map(_same_in_json, tree))
    return type(tree) in (str, int, bool, type(None)) or (type(tree) is float and isfinite(tree))


def searched(run: Mapping[str, Any], given: Space | None = None) -> tuple[str | None, Space | None]:
    """What run.json was on: the name of a problem, or a space, which may be given again.

    Raises NasplugError if it has to be, since JSON does not hold it and nobody registered it.
    """
    written = run["space"]
    if run["problem"]:
        return run["problem"], None
    if given is not None:
        return None, given
    if run["model"]:
        return None, marked(run["model"])
    if written["decisions"]:
        return None, Space(written["decisions"], written["name"])
    with suppress(NasplugError):
        found = named(written["name"]).for_data(written["data"])
        if found.fingerprint == written["fingerprint"]:
            return None, found
    raise NasplugError(
        f"{written['name']} is a space of yours, which has to be given again: space=space, or "
        "model=Net for a network of yours"
    )
