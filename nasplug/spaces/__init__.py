"""The spaces of the literature that several methods share; each loads when it is used."""

from functools import partial
from importlib import import_module

from nasplug.hookspecs import hookimpl
from nasplug.space import Space

SPACES = {
    "nb201": "nb201:NB201",
    "macro": "macro:Macro",
    "graph": "graph:Graph",
    "nb101": "nb101:NB101",
    "transnas-macro": "transnas:TransNASMacro",
    "transnas-cell": "transnas:TransNASCell",
    "shufflenetv2": "shufflenetv2:ShuffleNetV2",
    "fairnas": "fairnas:FairNAS",
    "mobilenet": "mobilenet:MobileNet",
    "darts": "darts:Darts",
    "anynetx": "anynetx:AnyNetX",
    "manual-irb": "manual_irb:ManualIRB",
    "open-cells": "open_cells:OpenCells",
}


def make(target: str, **options: int) -> Space:
    """``"module:Class"`` below this package -> a space."""
    module, _, name = target.partition(":")
    space: Space = getattr(import_module(f"nasplug.spaces.{module}"), name)(**options)
    return space


@hookimpl
def register_spaces(register):  # type: ignore[no-untyped-def]
    for name, target in SPACES.items():
        register(name, partial(make, target))
