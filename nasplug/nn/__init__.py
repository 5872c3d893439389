"""Networks, training and data for torch: what methods that train a supernet are made of."""

from nasplug.nn.bilevel import Batch, BiLevel, Mixture
from nasplug.nn.blocks import ConvBN, ConvBNReLU, Residual, inverted_residual, project
from nasplug.nn.choices import BatchNorm2d, Choice, Conv2d, Linear, Repeat, layer
from nasplug.nn.convolution import AvgPool, Depthwise, Pointwise, convolution
from nasplug.nn.data import Images, Stream, mixed_seed
from nasplug.nn.datasets import Given, load
from nasplug.nn.mixed import (
    Bools,
    MixedOp,
    Op,
    Shared,
    Zero,
    binary_gates,
    draw_paths,
    edge_gates,
    forget,
    gumbel,
    mix,
    mixed_ops,
)
from nasplug.nn.oneshot import SUPERNET, Oneshot, tabulated
from nasplug.nn.pictures import COLORS, GRAY, draw_edges, draw_epochs
from nasplug.nn.supernet import Floats, Supernet
from nasplug.nn.task import Task, call, relative_l2, shapes
from nasplug.nn.training import (
    count,
    default_device,
    fixed_threads,
    initialise,
    recalibrate,
    score,
    seeded,
    to_device,
    train,
)

__all__ = [
    "COLORS",
    "GRAY",
    "SUPERNET",
    "AvgPool",
    "Batch",
    "BatchNorm2d",
    "BiLevel",
    "Bools",
    "Choice",
    "Conv2d",
    "ConvBN",
    "ConvBNReLU",
    "Depthwise",
    "Floats",
    "Given",
    "Images",
    "Linear",
    "MixedOp",
    "Mixture",
    "Oneshot",
    "Op",
    "Pointwise",
    "Repeat",
    "Residual",
    "Shared",
    "Stream",
    "Supernet",
    "Task",
    "Zero",
    "binary_gates",
    "call",
    "convolution",
    "count",
    "default_device",
    "draw_edges",
    "draw_epochs",
    "draw_paths",
    "edge_gates",
    "fixed_threads",
    "forget",
    "gumbel",
    "initialise",
    "inverted_residual",
    "layer",
    "load",
    "mix",
    "mixed_ops",
    "mixed_seed",
    "project",
    "recalibrate",
    "relative_l2",
    "score",
    "seeded",
    "shapes",
    "tabulated",
    "to_device",
    "train",
]  # fmt: skip
