"""Sized: a space whose networks have a size, and that speaks of networks of that size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy.typing as npt

from nasplug.errors import NasplugError, unknown
from nasplug.kernel.space import Space
from nasplug.spaces.cost import Costed

if TYPE_CHECKING:
    import torch


LARGEST = 100_000  # of any size but those below, beyond which nobody trains a network of a search
MOST = {
    "layers": 100, "N": 100, "C": 1_000, "width": 100, "resolution": 4_096, "columns": 4_096,
    "dense": 1,
}  # fmt: skip
LEAST = {"width": 0.01, "columns": 0, "dense": 0}  # of those that need not be 1
NEEDED = {"darcy": "dense", "japanese-vowels": "columns"}  # by data: one that a space must have
UNABLE = {  # why
    "dense": "give one vector for each image, and here each pixel has its label",
    "columns": "take square images, and these are not",
}


class Sized(Costed):
    """Input shape, classes, width and depth are its own: `params`, `flops`, `build` and
    `supernet` are all about the networks of its `sizes`.

    presets: {data: {size: number}}: what suits a data set, where that is not what "" has; a size
    is a whole number unless that of "" is a float. Others are part of the name, as in
    ``nb201:C=8,N=1``:

    >>> space = NB201("digits", C=16)
    >>> space.name, space.sizes["N"], space.sized(N=1).name
    ('nb201:C=16', 3, 'nb201:C=16,N=1')

    network: the module of its networks, imported when one is built. It has ``build(space, arch)``
    and, where archs can share weights, ``supernet(space, region, partial)``.

    Two sizes say what else its networks can do: ``columns`` of images, if it is one of them, are
    those of images that are not square (0: as many as `resolution`, the rows), and with ``dense=1``
    there are `classes` outputs for each pixel, of the same resolution.
    """

    base: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    network: ClassVar[str]

    def __init__(self, data: str = "", /, **options: float) -> None:
        preset = self.preset(data)
        for option, value in options.items():
            if option not in preset:
                raise unknown(f"option of {self.base}", option, preset)
            kind, least = type(preset[option]), LEAST.get(option, 1)
            most = MOST.get(option, LARGEST)
            number = isinstance(value, int | kind) and not isinstance(value, bool)
            if not (number and least <= value <= most):
                raise NasplugError(
                    f"{option} of {self.base} is a number from {least} to {most:,}, got {value!r}"
                )
            options[option] = kind(value)
        self.data, self.options = data, options
        self.sizes = {**preset, **options}
        self.check_sizes()
        other = {name: value for name, value in options.items() if value != preset[name]}
        sizes = ",".join(f"{name}={value}" for name, value in sorted(other.items()))
        Space.__init__(self, self.find_decisions(), self.base + (f":{sizes}" if sizes else ""))

    @classmethod
    def preset(cls, data: str) -> dict[str, Any]:
        """The sizes that suit a data set."""
        return {**cls.presets[""], **cls.presets.get(data, {})}

    @abstractmethod
    def find_decisions(self) -> Mapping[str, Any]:
        """The decisions of the space at its `sizes`."""

    def check_sizes(self) -> None:
        """NasplugError if there is no network of the `sizes`."""

    def for_data(self, data: str) -> Self:
        """The same space with networks of the size that suits a data set; options stay.
        NasplugError if it has none."""
        if not able(self, data):
            raise self._unable(NEEDED[data])
        return type(self)(data, **self.options)

    def sized(self, **sizes: float) -> Self:
        """The same space with networks of other `sizes`."""
        return type(self)(self.data, **{**self.options, **sizes})

    def suited(self, example: Any, classes: int, dense: bool = False) -> Self:
        """The same space with networks for images like these; they have to be square, and labels
        must not be dense, unless its networks say that they can do it."""
        shape: tuple[int, ...] = tuple(getattr(example, "shape", ()))[1:]
        if len(shape) != 3:
            raise NasplugError(
                f"networks of {self.name} take (channels, height, width) images, got "
                f"{shape or f'a {type(example).__name__} of inputs'}: a network of your own "
                "takes anything, nasplug.space_of(Net)"
            )
        channels, *sides = shape
        if not classes:
            raise NasplugError(
                f"networks of {self.name} give one vector for each image, so that labels are "
                "classes or numbers, not several tensors"
            )
        if dense and "dense" not in self.sizes:
            raise self._unable("dense")
        oblong = sides[0] != sides[1]
        if oblong and "columns" not in self.sizes:
            raise NasplugError(
                f"images of {sides[0]}x{sides[1]} are not square, as networks of {self.name} need "
                "them: resize or crop them"
            )
        others = {"columns": sides[1] * oblong, "dense": int(dense)}
        return self.sized(
            channels=channels, classes=classes, resolution=sides[0],
            **{name: size for name, size in others.items() if name in self.sizes},
        )  # fmt: skip

    def _unable(self, size: str) -> NasplugError:
        return NasplugError(
            f"networks of {self.name} {UNABLE[size]}: take a space that can do it, such as nb201"
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image that the networks take: channels, height and width."""
        channels, rows = self.sizes["channels"], self.sizes["resolution"]
        return channels, rows, self.sizes.get("columns") or rows

    def build(self, arch: npt.ArrayLike) -> torch.nn.Module:
        """One arch -> its network, freshly initialised: (b, *shape) images -> (b, classes), or
        (b, classes, *shape[1:]) if it is dense."""
        model: torch.nn.Module = import_module(self.network).build(self, self.arch(arch))
        return model

    def supernet(self, region: Any = None, partial: int = 1) -> torch.nn.Module:
        """All archs of a region (by default of the space) in one network, a `nasplug.nn.Supernet`.

        partial: operations see 1/partial of the channels, where their shape allows it.
        """
        region = self if region is None else region
        network = import_module(self.network)
        if not hasattr(network, "supernet"):
            return super().supernet(region, partial)
        net: torch.nn.Module = network.supernet(self, region, partial)
        return net


def able(space: Space, data: str) -> bool:
    """Whether it has networks for a data set by name, as far as shapes go."""
    return data not in NEEDED or NEEDED[data] in space.sizes


def multiple_of_four(space: Sized) -> None:
    """NasplugError unless images can be halved twice."""
    _, *sides = space.shape
    if any(side % 4 or side < 8 for side in sides):
        raise NasplugError(
            f"images of {sides[0]}x{sides[1]} do not fit: networks of {space.base} halve them "
            "twice, so their sides must be multiples of 4, at least 8; resize or pad them"
        )
