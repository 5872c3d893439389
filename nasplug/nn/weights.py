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


def save_weights(model: nn.Module, file: Path, arch: Archs) -> None:
    """Write the weights of an arch's network, whole or not at all."""
    with replacing(file) as partial:
        save_model(model, str(partial), {"arch": json.dumps(arch.tolist())})


def load_weights(model: Module, file: Path) -> Module:
    """Read into a network, which is returned to evaluate; NasplugError if they are not its own."""
    try:
        load_model(model, file)
    except (OSError, SafetensorError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        raise NasplugError(f"{file} holds no weights of this network: {said}") from None
    return model.eval()


def arch_of_weights(space: Space, file: Path) -> Archs:
    """(d,) the arch that `save_weights` was given; NasplugError if the file does not tell."""
    try:
        with safe_open(file, "pt") as opened:
            return space.arch(json.loads(opened.metadata()["arch"]))
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise NasplugError(f"{file} holds no weights of an arch: {error}") from None


def inherit_weights(space: Space, wanted: Archs, file: Path) -> nn.Module:
    """The network of an arch with weights that were kept; NasplugError if they are another's."""
    arch = arch_of_weights(space, file)
    if not np.array_equal(*space.classes(np.array([arch, wanted]))[:, None]):
        raise NasplugError(
            f"the weights of {space.to_str(wanted)} were not kept, as those of the best, "
            f"{space.to_str(arch)}, are: build() and train it"
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
