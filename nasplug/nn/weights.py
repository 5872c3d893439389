"""Weights on disk: safetensors files, which hold tensors and text, and nothing that could run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from nasplug.errors import NasplugError
from nasplug.files import replacing
from nasplug.kernel.space import Archs, Space
from nasplug.nn.mixed import BATCH_NORMS
from nasplug.nn.training import initialise

Module = TypeVar("Module", bound=nn.Module)


def save_weights(model: nn.Module, file: Path, arch: Archs, **about: str) -> None:
    """Write the weights of an arch's network, whole or not at all, with some words about them."""
    with replacing(file) as partial:
        save_model(model, str(partial), {"arch": json.dumps(arch.tolist()), **about})


def save_supernet(net: nn.Module, file: Path, data: str) -> None:
    """Write what a supernet has learned, with the digest of its data."""
    save_model(net, str(file), {"data": data})


def load_weights(model: Module, file: Path) -> Module:
    """Read into a network, which is returned to evaluate; NasplugError if they are not its own."""
    try:
        load_model(model, file)
    except (OSError, SafetensorError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        raise NasplugError(f"{file} holds no weights of this network: {said}") from None
    return model.eval()


def about_weights(file: Path, name: str = "arch") -> dict[str, str]:
    """The words that were saved with weights; NasplugError if those of that name are missing."""
    try:
        with safe_open(file, "pt") as opened:
            found = opened.metadata()
    except (OSError, SafetensorError) as error:
        raise NasplugError(f"{file} holds no weights: {error}") from None
    if not found or name not in found:
        raise NasplugError(f"{file} holds weights of something else, and nothing of its {name}")
    return dict(found)


def inherit_weights(space: Space, wanted: Archs, file: Path) -> nn.Module:
    """The network of an arch with weights that were kept; NasplugError if they are another's."""
    try:
        arch = space.arch(json.loads(about_weights(file)["arch"]))
    except (NasplugError, ValueError) as error:
        raise NasplugError(f"{file} holds weights of no arch of {space.name}: {error}") from None
    if not np.array_equal(*space.classes(np.array([arch, wanted]))[:, None]):
        raise NasplugError(
            f"the weights of {space.to_str(wanted)} were not kept: {file.name} has those of "
            f"{space.to_str(arch)}; build() and train it"
        )
    return load_weights(initialise(lambda: space.build(arch), 0), file)


def filled(space: Space, arch: Archs, learned: nn.Module) -> nn.Module:
    """The network of an arch as it is built, with the weights that a supernet has learned for it.

    Batch norms of a supernet may scale nothing, and those built do: by 1, as they begin.
    NasplugError if anything else does not fit.
    """
    model = initialise(lambda: space.build(arch), 0)
    scales = {
        f"{name}.{scale}"
        for name, norm in model.named_modules() if isinstance(norm, BATCH_NORMS)
        for scale in ("weight", "bias")
    }  # fmt: skip
    try:
        missing, unexpected = model.load_state_dict(learned.state_dict(), strict=False)
    except RuntimeError as error:  # of other shapes
        raise NasplugError(f"inherited weights do not fit: {error}") from None
    if other := [*unexpected, *(set(missing) - scales)]:
        raise NasplugError(f"inherited weights do not fit: {other[0]} is of another network")
    return model.eval()
