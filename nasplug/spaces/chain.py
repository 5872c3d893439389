"""Chain: networks that are one layer after the other, each a block chosen from a list."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs
from nasplug.spaces.cost import Additive


class Chain(Additive):
    """One decision per layer; no choice changes the shape of what the next layer sees."""

    def to_str(self, arch: npt.ArrayLike) -> str:
        """One arch -> its blocks from input to output, joined by '-'."""
        return "-".join(self.to_dict(arch).values())

    def from_str(self, text: str) -> Archs:
        """The blocks joined by '-' -> one arch (d,)."""
        blocks = [block.strip() for block in text.split("-")]
        if len(blocks) != self.d:
            example = self.to_str(np.ones(self.d, dtype=int))
            raise NasplugError(
                f"an arch of {self.name} is {self.d} blocks joined by '-', got {len(blocks)}: "
                f"{text!r}; an example is {example}"
            )
        return self.from_dict(dict(zip(self.names, blocks, strict=True)))
