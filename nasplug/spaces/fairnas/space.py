"""FairNAS: nineteen inverted residuals, the kernel and the expansion of each to be chosen.

Chu et al., "FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural Architecture
Search", ICCV 2021.
"""

from __future__ import annotations

from nasplug.spaces.cost import Cost
from nasplug.spaces.manual_irb.space import BLOCKS, VARIANTS
from nasplug.spaces.skeleton.space import SKELETONS, BlockSpace, Layer, Skeleton

STAGES = ((32, 2, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1))
PUBLISHED = Skeleton(32, 2, STAGES, 1280, resolution=224, channels=3, classes=1000, separable=16)


class FairNAS(BlockSpace):
    """6^19 = 6.1e14 networks for ImageNet; smaller ones of the same blocks for other data.

    The authors report 345M multiply-adds and 4.5M parameters for FairNAS-B:

    >>> fairnas_b = [[1, 0, 1, 0, 3, 1, 2, 0, 3, 1, 0, 3, 2, 0, 5, 4, 5, 3, 4]]
    >>> FairNAS().flops(fairnas_b), FairNAS().params(fairnas_b)
    (array([345297632]), array([4506272]))
    """

    base = "fairnas"
    layer_network = "nasplug.spaces.fairnas.network"
    skeletons = {**SKELETONS, "": PUBLISHED}  # noqa: RUF012 - of the class, and never changed
    blocks = BLOCKS[1:]  # a layer is always there; in the authors' order

    def block_cost(self, shape: Layer, block: int) -> Cost:
        return shape.inverted_residual(*VARIANTS[block])
