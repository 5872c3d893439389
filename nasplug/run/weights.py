"""The weights of the best arch in a run directory."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from nasplug.errors import NasplugError, lacking
from nasplug.kernel.selection import Selection
from nasplug.kernel.space import Archs, Space

if TYPE_CHECKING:
    import torch

FILE = "weights.safetensors"


def keep(selection: Selection, folder: Path) -> None:
    """Write those of the best arch, if it has some to inherit and they fit what it builds."""
    best = selection.best
    if best.trained is None:
        return
    with suppress(NasplugError):
        files = _files()
        model = files.filled(best.space, best.arch, best.inherit())
        images = getattr(selection.search.problem.evaluator, "images", None)
        about = {"data": images.digest} if images is not None else {}
        files.save_weights(model, folder / FILE, best.arch, **about)


def inherit(space: Space, wanted: Archs, folder: Path) -> torch.nn.Module:
    """The network of the best arch with them."""
    if not (folder / FILE).exists():
        raise NasplugError(
            f"{folder} holds no weights: what it scored was not trained, or not by nasplug; "
            f"`nasplug retrain {folder}` trains the best, build() is a fresh network"
        )
    model: torch.nn.Module = _files().inherit_weights(space, wanted, folder / FILE)
    return model


def _files() -> ModuleType:
    try:
        return import_module("nasplug.nn.weights")
    except ImportError as error:
        raise lacking("keeping weights", error) from None
