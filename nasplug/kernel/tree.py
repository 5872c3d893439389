"""Trees of dicts and lists: what notes, checkpoints and records are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from nasplug.errors import NasplugError


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same tree with ``function(leaf)`` for every leaf; tuples become lists."""
    if isinstance(tree, Mapping):
        return {name: map_leaves(function, value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [map_leaves(function, value) for value in tree]
    return function(tree)


def jsonable(tree: Any, name: str) -> Any:
    """The tree as JSON holds it: keys are text, numpy's numbers and arrays Python's, and what is
    not finite None. NasplugError, which says `name`, if there is anything else in it."""
    if isinstance(tree, Mapping):
        return {str(key): jsonable(value, name) for key, value in tree.items()}
    if isinstance(tree, np.ndarray | np.generic):
        tree = tree.tolist()
    if isinstance(tree, list | tuple):
        return [jsonable(value, name) for value in tree]
    if isinstance(tree, float):
        return tree if np.isfinite(tree) else None
    if tree is None or isinstance(tree, str | int):
        return tree
    raise NasplugError(
        f"{name} holds a {type(tree).__name__}, which cannot be written as JSON: keep numbers, "
        "text, lists and dicts of them"
    )


def read_arrays(file: Path) -> dict[str, Any]:
    """All that an .npz file holds; zipfile, zlib and numpy raise a dozen kinds on a damaged one."""
    with ZipFile(file) as archive, np.load(file, allow_pickle=False) as arrays:
        if damaged := archive.testzip():  # numpy reads no more than a damaged shape says
            raise ValueError(f"its {damaged} is damaged")
        return dict(arrays)
