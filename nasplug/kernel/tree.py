"""Trees of dicts and lists: what notes, checkpoints and records are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nasplug.errors import NasplugError


def map_leaves(
    function: Callable[[Any], Any], tree: Any, key: Callable[[Any], Any] = lambda key: key
) -> Any:
    """The same tree with ``function(leaf)`` for every leaf and ``key(key)`` for every key of a
    dict; tuples become lists."""
    if isinstance(tree, Mapping):
        return {key(name): map_leaves(function, value, key) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [map_leaves(function, value, key) for value in tree]
    return function(tree)


def jsonable(tree: Any, name: str) -> Any:
    """The tree with numpy's numbers and arrays as Python's; NasplugError, which says `name`, if
    there is something in it that JSON cannot hold."""

    def plain(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return map_leaves(plain, leaf.tolist(), key=str)
        if isinstance(leaf, np.generic):
            leaf = leaf.item()
        if leaf is None or isinstance(leaf, str | int | float | bool):
            return leaf
        raise NasplugError(
            f"{name} holds a {type(leaf).__name__}, which cannot be written as JSON: keep numbers, "
            "text, lists and dicts of them"
        )

    return map_leaves(plain, tree, key=str)
