"""Space: a finite product of decisions, and what is special to it.

An arch is an integer vector (the index of the choice taken at each decision); many archs
are an ``(n, d)`` integer array. Everything here is vectorised over the n archs.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError, unknown

if TYPE_CHECKING:
    import torch

Archs = npt.NDArray[np.integer[Any]]
Seed = int | np.random.Generator | None
Draw = Callable[[npt.NDArray[Any]], Archs]  # rows -> an arch for each
Accept = Callable[[Archs, npt.NDArray[Any]], npt.NDArray[np.bool_]]  # archs, their rows -> which

DRAWS = 1000  # how often a row is drawn again before giving up
ENUMERABLE = 5_000_000  # the largest space that `all()` lists


def redraw(n: int, draw: Draw, accept: Accept) -> Archs:
    """Rejection sampling by rows: ``draw(rows)`` again for every row not accepted yet."""
    archs, refused = try_draws(n, draw, accept, DRAWS)
    if len(refused):
        raise NasplugError(
            f"no arch found for {len(refused)} of {n} draws: nothing there is allowed"
        )
    return archs


def try_draws(n: int, draw: Draw, accept: Accept, tries: int) -> tuple[Archs, npt.NDArray[np.intp]]:
    """What `redraw` has drawn after so many tries, and the rows that are not accepted yet."""
    rows = np.arange(n)
    archs = draw(rows)
    rows = rows[~accept(archs, rows)]
    for _ in range(tries - 1):
        if not len(rows):
            break
        archs[rows] = fresh = draw(rows)
        rows = rows[~accept(fresh, rows)]
    return archs, rows


class Space:
    """A finite product of named decisions, each with named choices.

    >>> space = Space({"width": [16, 32, 64], "act": ["relu", "gelu"]})
    >>> space.size
    6
    >>> space.to_str([2, 0])
    'width=64,act=relu'

    A subclass adds what is special to a space of the literature: ``is_valid``,
    ``canonical`` (one representative per class of isomorphic archs), ``to_str`` and
    ``from_str``, ``features``, ``params``, ``flops``, ``build``, ``supernet`` and ``draw``. One
    that builds networks is sized: `sizes` are its own, and what it tells is about networks of
    that size (see `nasplug.spaces.Sized`).

    The whole space is also the largest of its subspaces: it answers ``contains``,
    ``sample``, ``neighbors``, ``mutate``, ``size`` and ``describe`` as they do.
    """

    name = "custom"
    sizes: Mapping[str, Any] = MappingProxyType({})  # of the networks that it builds
    own = False  # whether these are the user's own, which take data as they are given

    def __init__(self, decisions: Mapping[str, Sequence[Any]], name: str | None = None) -> None:
        if not isinstance(decisions, Mapping) or not decisions:
            raise NasplugError('a space needs decisions, such as {"width": [16, 32]}')
        names = "|".join(re.escape(str(name)) for name in sorted(decisions, key=str, reverse=True))
        self._assignment = re.compile(rf"(?:^|,)\s*({names})\s*=")
        for decision, choices in decisions.items():
            listed = hasattr(choices, "__getitem__") and not isinstance(choices, str | Mapping)
            if not listed or len(choices) == 0:
                raise NasplugError(f"decision {decision!r} needs a list of at least one choice")
            texts = [str(choice) for choice in choices]
            if len(set(texts)) < len(texts):
                raise NasplugError(f"decision {decision!r} has the same choice twice: {choices}")
            if wrong := next(filter(self._assignment.search, texts), None):
                raise NasplugError(f"choice {wrong!r} of {decision!r} reads like another decision")
        self.name = name or self.name
        self.decisions = {str(k): tuple(v) for k, v in decisions.items()}
        if len(self.decisions) < len(decisions):
            raise NasplugError(f"decisions need names of their own, got {list(decisions)}")
        self.names = tuple(self.decisions)
        self.cardinalities = np.array([len(c) for c in self.decisions.values()])
        self.d = len(self.names)
        self.dtype = np.dtype(np.int8 if self.cardinalities.max() <= 127 else np.int32)

    # ---- size and enumeration

    @property
    def space(self) -> Self:
        """Itself, so that every region says which space it is of."""
        return self

    @property
    def unlimited(self) -> Self:
        """Itself: the region without constraints on its archs."""
        return self

    @cached_property
    def size(self) -> int:
        """The number of points of the product."""
        return math.prod(int(c) for c in self.cardinalities)

    @property
    def count(self) -> int:
        """The number of archs: of the valid points, where they are not all."""
        return self.size

    @cached_property
    def _strides(self) -> npt.NDArray[np.int64]:
        """What one step of each decision adds to the index (only if the index fits 63 bits)."""
        tail = np.append(self.cardinalities[1:], 1).astype(np.int64)
        return np.cumprod(tail[::-1])[::-1]

    @cached_property
    def _indexable(self) -> bool:
        return self.size < 2**63

    @cached_property
    def _unrestricted(self) -> bool:
        """Every point is valid: nothing to check on hot paths."""
        return type(self).is_valid is Space.is_valid

    def index(self, archs: Archs) -> npt.NDArray[np.int64]:
        """(n, d) archs -> (n,) ranks in lexicographic order; needs ``size < 2**63``."""
        if not self._indexable:
            raise NasplugError(f"{self.name} has {self.size:.1e} points, too many to index")
        return np.asarray(archs, dtype=np.int64) @ self._strides

    def from_index(self, index: npt.ArrayLike) -> Archs:
        """(n,) ranks -> (n, d) archs, the inverse of `index`."""
        index = np.asarray(index, dtype=np.int64)
        return ((index[..., None] // self._strides) % self.cardinalities).astype(self.dtype)

    def all(self) -> Archs:
        """Every valid arch, (n, d), in lexicographic order."""
        if self.size > ENUMERABLE:
            raise NasplugError(f"{self.name} has {self.size:.1e} points, too many to list; sample")
        archs = self.from_index(np.arange(self.size))
        return archs[self.is_valid(archs)]

    def codes(self, archs: Archs) -> npt.NDArray[Any]:
        """(n, d) -> (n,): a key per arch: its index, or its bytes in a space too large to index."""
        if self._indexable:
            return np.asarray(archs) @ self._strides
        rows = np.ascontiguousarray(archs, dtype=self.dtype)
        return rows.view(f"V{rows.itemsize * self.d}").ravel()

    def classes(self, archs: Archs) -> npt.NDArray[Any]:
        """(n, d) -> (n,): a key per arch that sorts and compares, the same for isomorphic archs."""
        return self.codes(self.canonical(archs))

    def unique(self, archs: Archs) -> Archs:
        """The distinct archs, each where it first occurs."""
        rows = np.ascontiguousarray(archs, dtype=self.dtype)
        return rows[np.sort(np.unique(self.codes(rows), return_index=True)[1])]

    def distinct(self, archs: Archs) -> Archs:
        """One arch of each class of isomorphic ones, each where it first occurs."""
        archs = np.asarray(archs)
        return archs[np.sort(np.unique(self.classes(archs), return_index=True)[1])]

    # ---- which space it is

    def matches(self, other: Space) -> bool:
        """Whether archs of the other space are archs of this one, whatever the networks' size."""
        return type(self) is type(other) and self.decisions == other.decisions

    @cached_property
    def fingerprint(self) -> str:
        """Tells in a file whether it is about this space, by the decisions and their choices."""
        text = json.dumps([[name, *map(str, c)] for name, c in self.decisions.items()])
        text = re.sub(" at 0x[0-9a-fA-F]+", "", text)  # a function's address, of this process
        return f"{type(self).__name__}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def sized(self, **sizes: float) -> Self:
        """The same space with networks of another size, such as ``C=16, N=5``."""
        if sizes:
            raise NasplugError(f"{self.name} has one size, so it takes no {', '.join(sizes)}")
        return self

    def for_data(self, data: str) -> Self:
        """The same space with networks of the size that suits a data set; most have one size."""
        return self

    def suited(self, example: Any, classes: int, dense: bool = False) -> Self:
        """The same space with networks for inputs like these of so many classes, or of so many
        outputs for each pixel, which is dense; NasplugError if there are none."""
        return self

    # ---- reading archs

    def check(self, archs: npt.ArrayLike) -> Archs:
        """Anything array-like -> an (n, d) array of this space's integer type.

        Raises NasplugError when the shape, a value or the arch itself does not fit.
        """
        try:
            array = np.atleast_2d(np.asarray(archs))
            rounded = array.astype(np.int64)
        except (TypeError, ValueError, OverflowError) as error:
            raise NasplugError(f"archs of {self.name} are integer vectors: {error}") from None
        if array.ndim != 2 or array.shape[1] != self.d:
            raise NasplugError(
                f"archs of {self.name} have {self.d} decisions, got an array of shape {array.shape}"
            )
        wrong = (rounded < 0) | (rounded >= self.cardinalities) | (rounded != array)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise NasplugError(
                f"decision {self.names[column]!r} of {self.name} takes 0 to "
                f"{self.cardinalities[column] - 1}, arch {row} has {array[row, column]}"
            )
        result = rounded.astype(self.dtype)
        if not (valid := self.is_valid(result)).all():
            raise NasplugError(f"arch {np.flatnonzero(~valid)[0]} is not valid in {self.name}")
        return result

    def arch(self, source: str | Mapping[str, Any] | npt.ArrayLike) -> Archs:
        """One arch (d,) from its string, from {decision: choice} or from integers."""
        if isinstance(source, str):
            return self.check(self.from_str(source))[0]
        if isinstance(source, Mapping):
            return self.check(self.from_dict(source))[0]
        archs = self.check(source)
        if len(archs) != 1:
            raise NasplugError(f"one arch expected, got {len(archs)}")
        return archs[0]

    def to_dict(self, arch: npt.ArrayLike) -> dict[str, Any]:
        """One arch -> {decision: choice}."""
        return {
            name: choices[int(i)]
            for (name, choices), i in zip(self.decisions.items(), np.asarray(arch), strict=True)
        }

    def from_dict(self, params: Mapping[str, Any]) -> Archs:
        """{decision: choice} -> one arch (d,); choices compare by value or by their text."""
        for name in params:
            if name not in self.decisions:
                raise unknown("decision", str(name), self.names)
        arch = []
        for name, choices in self.decisions.items():
            if name not in params:
                raise NasplugError(f"decision {name!r} is missing")
            wanted, texts = params[name], [str(choice) for choice in choices]
            if str(wanted) in texts:
                arch.append(texts.index(str(wanted)))
            elif isinstance(wanted, int | float | np.number) and wanted in choices:
                arch.append(choices.index(wanted))
            else:
                raise unknown(f"choice of {name}", str(wanted), texts)
        return np.array(arch, dtype=self.dtype)

    def to_str(self, arch: npt.ArrayLike) -> str:
        """One arch -> its string form."""
        return ",".join(f"{name}={choice}" for name, choice in self.to_dict(arch).items())

    def from_str(self, text: str) -> Archs:
        """The string form -> one arch (d,)."""
        start, *rest = self._assignment.split(text)
        if start.strip():
            raise unknown("decision", start.partition("=")[0].strip(), self.names)
        params = dict(zip(rest[::2], rest[1::2], strict=True))
        for name, text in params.items():
            if text not in map(str, self.decisions[name]):
                params[name] = text.strip()
        return self.from_dict(params)

    # ---- geometry

    def distance(self, a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The number of decisions that differ; (n, d) against (n, d) or (d,) gives (n,)."""
        return (np.asarray(a) != np.asarray(b)).sum(-1)

    def is_valid(self, archs: Archs) -> npt.NDArray[np.bool_]:
        """(n, d) -> (n,): which points of the product are archs. By default all of them."""
        return np.ones(len(archs), dtype=bool)

    def canonical(self, archs: Archs) -> Archs:
        """(n, d) -> (n, d): the representative of each arch's class of isomorphic archs."""
        return np.asarray(archs)

    def contains(self, archs: Archs) -> npt.NDArray[np.bool_]:
        """(n, d) -> (n,): which archs lie in the space."""
        archs = np.asarray(archs)
        inside = np.all((archs >= 0) & (archs < self.cardinalities), axis=1)
        if not self._unrestricted:
            inside[inside] = self.is_valid(archs[inside])
        return inside

    def sample(self, n: int, seed: Seed = None) -> Archs:
        """n archs, (n, d), drawn uniformly with replacement from the valid ones."""
        rng = np.random.default_rng(seed)

        def draw(rows: Archs) -> Archs:
            return rng.integers(0, self.cardinalities, (len(rows), self.d), self.dtype)

        if self._unrestricted:
            return draw(np.arange(n))
        return redraw(n, draw, lambda archs, rows: self.is_valid(archs))

    def neighbors(self, arch: npt.ArrayLike, distance: int = 1) -> Archs:
        """Every valid arch exactly `distance` decisions away, isomorphs of `arch` left out."""
        arch = self.arch(arch)
        if not 1 <= distance <= self.d:
            raise NasplugError(f"distance must be 1 to {self.d} in {self.name}, got {distance}")
        blocks = []
        for positions in map(list, combinations(range(self.d), distance)):
            others = [np.delete(np.arange(self.cardinalities[p]), arch[p]) for p in positions]
            changes = np.stack(np.meshgrid(*others, indexing="ij"), -1).reshape(-1, distance)
            block = np.repeat(arch[None], len(changes), 0)
            block[:, positions] = changes
            blocks.append(block)
        archs = np.concatenate(blocks)
        archs = archs[self.is_valid(archs)]
        same = (self.canonical(archs) == self.canonical(arch[None])).all(1)
        return archs[~same]

    def mutate(self, archs: Archs, seed: Seed = None, distance: int = 1) -> Archs:
        """(n, d) -> (n, d): for each arch a uniformly drawn one of its `neighbors`."""
        rng = np.random.default_rng(seed)
        archs = np.asarray(archs, dtype=self.dtype)
        isomorphic = type(self).canonical is not Space.canonical
        own = self.canonical(archs) if isomorphic else archs

        def accept(mutants: Archs, rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
            good = self.is_valid(mutants)
            if isomorphic:
                good[good] = (self.canonical(mutants[good]) != own[rows[good]]).any(1)
            return good

        def draw(rows: npt.NDArray[Any]) -> Archs:
            return self.edit(archs[rows], np.full(len(rows), distance), rng)

        return redraw(len(archs), draw, accept)

    def edit(self, archs: Archs, distances: npt.NDArray[Any], rng: np.random.Generator) -> Archs:
        """Change exactly ``distances[i]`` decisions of arch i, uniformly over all such points.

        Decisions with more choices are changed more often, as uniformity asks: position i
        has weight c_i - 1, and a set of positions the product of its weights.
        """
        if len(archs) and not 0 <= np.min(distances) <= np.max(distances) <= self.shells.size - 1:
            raise NasplugError(
                f"distance must be 0 to {self.shells.size - 1} in {self.name}, got "
                f"{np.min(distances)} to {np.max(distances)}"
            )
        result = np.array(archs, dtype=self.dtype)
        left = np.array(distances)
        for i, cardinality in enumerate(self.cardinalities):
            if cardinality == 1:
                continue
            taken = rng.random(len(result)) < self._inclusion[i][left]
            left -= taken
            offset = rng.integers(1, cardinality, len(result)) * taken
            result[:, i] = (result[:, i] + offset) % cardinality
        return result

    @cached_property
    def shells(self) -> npt.NDArray[np.float64]:
        """(r,) how many points lie at distance 0, 1, ... from any point of the product."""
        polynomial = np.ones(1)
        for weight in self.cardinalities - 1.0:
            if weight:
                polynomial = np.convolve(polynomial, [1.0, weight])
        return polynomial

    @cached_property
    def _inclusion(self) -> npt.NDArray[np.float64]:
        """[i, r]: the chance that position i is edited when r edits are left for i and after."""
        rest = np.zeros(self.d + 2)  # ways to place r edits after position i
        rest[0] = 1.0
        chance = np.zeros((self.d, self.d + 1))
        for i in reversed(range(self.d)):
            weight = self.cardinalities[i] - 1.0
            here = rest.copy()
            here[1:] += weight * rest[:-1]
            taken = weight * np.append(0.0, rest[:-1])
            chance[i] = np.divide(taken, here, out=np.zeros_like(here), where=here > 0)[:-1]
            rest = here
        return chance

    # ---- what predictors and people see

    def features(self, archs: Archs) -> npt.NDArray[np.float32]:
        """(n, d) -> (n, f): one-hot, f = the sum of the cardinalities."""
        archs = np.asarray(archs)
        choices = np.concatenate([np.arange(c, dtype=self.dtype) for c in self.cardinalities])
        return (np.repeat(archs, self.cardinalities, axis=1) == choices).astype(np.float32)

    def params(self, archs: Archs) -> npt.NDArray[np.int64]:
        """(n, d) -> (n,): the number of parameters of each built network."""
        raise NasplugError(f"{self.name} does not know its parameter counts")

    def flops(self, archs: Archs) -> npt.NDArray[np.int64]:
        """(n, d) -> (n,): the multiply-adds of one forward pass of each built network."""
        raise NasplugError(f"{self.name} does not know its FLOPs")

    def build(self, arch: npt.ArrayLike) -> torch.nn.Module:
        """One arch -> the network of this space's size, freshly initialised."""
        raise NasplugError(f"{self.name} cannot build networks")

    @property
    def builds(self) -> bool:
        """Whether it can `build`."""
        return type(self).build is not Space.build

    def supernet(self, region: Any = None, partial: int = 1) -> torch.nn.Module:
        """All archs of a region (by default of the space) in one network: a
        `nasplug.nn.Supernet`. Operations see 1/partial of the channels."""
        raise NasplugError(f"{self.name} has no supernet: its networks cannot share weights")

    def describe(self) -> str:
        """One line for people."""
        return f"{self.name}: {self.size:,} points, {self.d} decisions"

    def __repr__(self) -> str:
        return f"<Space {self.describe()}>"
