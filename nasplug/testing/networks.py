"""What the checks ask of networks, with torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy.typing as npt
import torch

from nasplug.kernel.problem import space as named
from nasplug.nn import load

IMAGES = 32  # which a supernet is trained on
SMALL = {"C": 4, "N": 1, "layers": 4, "width": 0.1}  # sizes of networks


def digits(problem: str) -> dict[str, Any]:
    """A small space of a problem's with a few of scikit-learn's digits, as the options of
    `nasplug.search`."""
    images = load("digits")
    parts: dict[str, Any] = {
        part: tuple(x[:IMAGES] for x in getattr(images, part)) for part in ("train", "val", "test")
    }
    space = named(problem.rpartition("/")[0].partition(":")[0]).for_data("digits")
    return {"space": small(space), "data": replace(images, **parts)}


def small(space: Any) -> Any:
    """The same space with small networks."""
    return space.sized(**{name: size for name, size in SMALL.items() if name in space.sizes})


def logits(space: Any, model: torch.nn.Module) -> npt.NDArray[Any]:
    """(2, classes): what a network says of two images of noise."""
    images = torch.randn(2, *space.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: npt.NDArray[Any] = model.eval()(images).numpy()
    return found
