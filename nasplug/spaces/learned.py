"""A layered subspace as a space of its own, such as a search may end with; kept as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError
from nasplug.kernel.problem import space
from nasplug.kernel.space import Archs, Space
from nasplug.kernel.subspace import Layered
from nasplug.spaces.cost import Cost
from nasplug.spaces.skeleton.space import SkeletonSpace

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes

FORMAT = 1


class Learned(SkeletonSpace):
    """One decision per layer: which of its choices. Everything else is the outer space's.

    A file of it, written by `save`, is a name like any other:
    ``nasplug.space("runs/.../learned-space.json")``, ``--on runs/.../learned-space.json/digits``.
    """

    base = "learned"

    def __init__(self, choices: Layered, file: str, **options: float) -> None:
        assert isinstance(choices.space, SkeletonSpace)
        self.choices, self.outer, self.file = choices, choices.space, file
        self.data, self.options, self.sizes = self.outer.data, options, self.outer.sizes
        self.skeleton, self.layers = self.outer.skeleton, self.outer.layers
        sizes = ",".join(f"{name}={value}" for name, value in sorted(options.items()))
        Space.__init__(self, self.find_decisions(), file + (f":{sizes}" if sizes else ""))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """From JSON; NasplugError if the file holds no learned space."""
        try:
            content = json.loads(Path(path).read_text())
            if content["format"] != FORMAT:
                raise NasplugError(f"{path} has format {content['format']}, not {FORMAT}")
            if ".json" in content["space"]:
                raise NasplugError(
                    f"{path} is of {content['space']}: a learned space is of no other"
                )
            outer = space(content["space"]).for_data(content["data"])
            if not isinstance(outer, SkeletonSpace):
                raise NasplugError(f"{path} is of {outer.name}, which is not made of layers")
            layers = [list(map(outer.layer_from_str, map(str, row))) for row in content["layers"]]
            return cls(Layered(outer, [np.array(rows) for rows in layers]), str(path))
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise NasplugError(f"{path} holds no space: {type(error).__name__}: {error}") from None

    def save(self, path: Path) -> None:
        """As JSON, every choice spelled out."""
        content = {
            "format": FORMAT,
            "space": self.outer.name,
            "data": self.outer.data,
            "layers": list(self.decisions.values()),
        }
        path.write_text(json.dumps(content, indent=2) + "\n")

    def _on(self, outer: SkeletonSpace, options: dict[str, float]) -> Self:
        if len(outer.layers) != len(self.layers):
            raise NasplugError(
                f"{self.name} has {len(self.layers)} layers, {outer.name} has {len(outer.layers)}"
            )
        return type(self)(Layered(outer, self.choices.choices), self.file, **options)

    def for_data(self, data: str) -> Self:
        """The same choices on the skeleton for another data set, if it has as many layers."""
        return self._on(self.outer.for_data(data), dict(self.options))

    def sized(self, **sizes: float) -> Self:
        return self._on(self.outer.sized(**sizes), {**self.options, **sizes})

    def find_decisions(self) -> dict[str, tuple[Any, ...]]:
        return {f"layer{i}": tuple(names) for i, names in enumerate(self.choices.names())}

    def layer_costs(self, archs: Archs) -> Cost:
        return self.outer.layer_costs(self.choices.compose(archs))

    def layer(self, i: int, choice: npt.ArrayLike, parts: int = 1) -> torch.nn.Module | None:
        return self.outer.layer(i, self.choices.choices[i][int(np.asarray(choice)[0])], parts)

    def layered(self) -> Layered:
        return Layered(self, [np.arange(n)[:, None] for n in self.cardinalities])

    def layer_name(self, i: int, choice: npt.ArrayLike) -> str:
        return str(self.decisions[self.names[i]][int(np.asarray(choice)[0])])

    def layer_str(self, choice: npt.ArrayLike) -> str:
        raise NotImplementedError  # the names of a choice depend on its layer: see `layer_name`

    def layer_from_str(self, text: str) -> Archs:
        raise NotImplementedError

    def to_str(self, arch: npt.ArrayLike) -> str:
        """One arch -> its layers from input to output, joined by '-'."""
        return self.outer.to_str(self.choices.compose(np.asarray(arch)[None])[0])

    def from_str(self, text: str) -> Archs:
        """The inverse of `to_str`."""
        index = self.choices.index(self.outer.from_str(text)[None])[0]
        if (index < 0).any():
            raise NasplugError(f"{text!r} is not in {self.name}: layer {int(np.argmin(index))}")
        return index.astype(self.dtype)

    def draw(self, arch: npt.ArrayLike, ax: Axes) -> None:
        draw: Any = getattr(self.outer, "draw")  # noqa: B009 - both outer spaces draw
        draw(self.choices.compose(np.asarray(arch)[None])[0], ax)
