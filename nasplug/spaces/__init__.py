"""The spaces of the literature; each loads when it is used."""

from typing import TYPE_CHECKING

from nasplug._late import late
from nasplug.hookspecs import hookimpl

if TYPE_CHECKING:
    from nasplug.spaces.anynetx import AnyNetX
    from nasplug.spaces.darts.space import Darts, EdgeMask
    from nasplug.spaces.elastic.space import Elastic
    from nasplug.spaces.fairnas.space import FairNAS
    from nasplug.spaces.graph import Graph
    from nasplug.spaces.learned import Learned
    from nasplug.spaces.macro.space import Macro
    from nasplug.spaces.manual_irb.space import ManualIRB
    from nasplug.spaces.marked.space import Marked
    from nasplug.spaces.mobilenet.space import MobileNet
    from nasplug.spaces.nb101 import NB101
    from nasplug.spaces.nb201.space import NB201
    from nasplug.spaces.open_cells.space import OpenCells
    from nasplug.spaces.shufflenetv2.space import ShuffleNetV2
    from nasplug.spaces.sized import Sized
    from nasplug.spaces.skeleton.space import SkeletonSpace
    from nasplug.spaces.transnas import TransNASCell, TransNASMacro

# name: (module and class, what lists show)
SPACES = {
    "nb201": ("nb201.space:NB201", "NAS-Bench-201: 15,625 cells of four nodes"),
    "macro": ("macro.space:Macro", "NAS-Bench-Macro: eight layers, 6,561 networks"),
    "graph": ("graph:Graph", "NAS-Bench-Graph: 26,207 graph neural networks"),
    "nb101": ("nb101:NB101", "NAS-Bench-101: 423,624 graphs of up to seven vertices"),
    "transnas-macro": ("transnas:TransNASMacro", "TransNAS-Bench-101: 3,256 skeletons"),
    "transnas-cell": ("transnas:TransNASCell", "TransNAS-Bench-101: 4,096 cells"),
    "shufflenetv2": ("shufflenetv2.space:ShuffleNetV2", "SPOS's twenty layers, 4^20 networks"),
    "fairnas": ("fairnas.space:FairNAS", "FairNAS's nineteen inverted residuals, 6^19 networks"),
    "mobilenet": ("mobilenet.space:MobileNet", "Once-for-All's MobileNetV3-like networks, 2.2e19"),
    "darts": ("darts.space:Darts", "DARTS's normal and reduction cells, 1.1e18 pairs"),
    "anynetx": ("anynetx:AnyNetX", "AnyNetX: four stages of residual bottlenecks, 1.8e18"),
    "manual-irb": ("manual_irb.space:ManualIRB", "an inverted residual, or nothing, per layer"),
    "open-cells": ("open_cells.space:OpenCells", "AutoSpace's open cells: any DAG in each layer"),
}
MODULES = {  # of the classes
    **{target.split(":")[1]: f"{__name__}.{target.split(':')[0]}" for target, _ in SPACES.values()},
    "EdgeMask": f"{__name__}.darts.space",
    "Elastic": f"{__name__}.elastic.space",
    "Learned": f"{__name__}.learned",
    "Marked": f"{__name__}.marked.space",
    "Sized": f"{__name__}.sized",
    "SkeletonSpace": f"{__name__}.skeleton.space",
}

__all__ = [
    "NB101", "NB201", "AnyNetX", "Darts", "EdgeMask", "Elastic", "FairNAS", "Graph", "Learned",
    "Macro", "ManualIRB", "Marked", "MobileNet", "OpenCells", "ShuffleNetV2", "Sized",
    "SkeletonSpace", "TransNASCell", "TransNASMacro",
]  # fmt: skip


@hookimpl
def register_spaces(register):  # type: ignore[no-untyped-def]
    for name, (target, doc) in SPACES.items():
        register(name, f"nasplug.spaces.{target}", doc)


__getattr__ = late(__name__, MODULES)
