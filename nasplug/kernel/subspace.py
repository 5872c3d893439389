"""Subspace: a region of a Space. All five papers mine, shrink, sample or evolve them.

A Space answers the same questions for all of itself, so ``Region`` is what a search takes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nasplug.errors import NasplugError, unknown
from nasplug.kernel.space import Archs, Seed, Space, redraw, try_draws
from nasplug.kernel.tree import read_arrays


class Subspace(ABC):
    """What every region answers; `space` is the space it is a region of."""

    space: Space

    @property
    def unlimited(self) -> Region:
        """Without constraints on its archs: what a supernet can be made of."""
        return self

    @property
    @abstractmethod
    def size(self) -> int:
        """How many points it has (of the product, where validity has no closed form)."""

    def contains(self, archs: Archs) -> npt.NDArray[np.bool_]:
        """(n, d) -> (n,): which archs lie in it."""
        archs = np.asarray(archs)
        inside = self.space.contains(archs)
        inside[inside] = self.includes(archs[inside])
        return inside

    @abstractmethod
    def includes(self, archs: Archs) -> npt.NDArray[np.bool_]:
        """(n, d) archs of the space -> (n,): which of them lie in it."""

    @abstractmethod
    def sample(self, n: int, seed: Seed = None) -> Archs:
        """n archs, (n, d), drawn uniformly with replacement."""

    @abstractmethod
    def describe(self) -> str:
        """One line for people."""

    def mutate(self, archs: Archs, seed: Seed = None, distance: int = 1) -> Archs:
        """(n, d) -> (n, d): a random member near each arch, never the arch or an isomorph of it.

        By default a uniform one of those `distance` edits away. NasplugError if there is none.
        """
        rng = np.random.default_rng(seed)
        archs = np.asarray(archs, dtype=self.space.dtype)
        result, rows = try_draws(
            len(archs),
            lambda rows: self.space.mutate(archs[rows], rng, distance),
            lambda drawn, rows: self.contains(drawn),
            TRIES,
        )
        for row in rows:
            near = self.neighbors(archs[row], distance)
            if not len(near):
                arch = self.space.to_str(archs[row])
                raise NasplugError(f"{self.describe()} has nothing to mutate to from {arch}")
            result[row] = near[rng.integers(len(near))]
        return result

    @abstractmethod
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What defines it, as the arguments of its class."""

    def save(self, path: Path) -> None:
        """Write it to an .npz file, for `load`."""
        about = np.array([type(self).__name__, self.space.name, self.space.fingerprint])
        np.savez_compressed(path, about=about, **self.arrays())  # type: ignore[arg-type]

    def neighbors(self, arch: npt.ArrayLike, distance: int = 1) -> Archs:
        """Every member exactly `distance` decisions away from `arch`, isomorphs of it left out."""
        archs = self.space.neighbors(arch, distance)
        return archs[self.contains(archs)]

    def distinct(self, archs: Archs) -> Archs:
        """The members among some archs, one of each class of isomorphic ones."""
        return self.space.distinct(np.asarray(archs)[self.contains(archs)])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.describe()}>"


Region = Space | Subspace

TRIES = 8  # random edits of an arch before a region looks through its members


class Mask(Subspace):
    """The archs made of allowed choices only: a sub-product.

    `allowed` maps decisions to the choices that stay (the others keep all of theirs), or is
    a (d, max cardinality) boolean matrix.
    """

    def __init__(self, space: Space, allowed: Mapping[str, Sequence[Any]] | npt.ArrayLike) -> None:
        self.space = space
        exists = np.arange(space.cardinalities.max()) < space.cardinalities[:, None]
        if isinstance(allowed, Mapping):
            matrix = exists.copy()
            for name, choices in allowed.items():
                if name not in space.decisions:
                    raise unknown("decision", name, space.names)
                known, keep = list(map(str, space.decisions[name])), set(map(str, choices))
                if absent := keep.difference(known):
                    raise unknown(f"choice of {name}", min(absent), known)
                matrix[space.names.index(name), : len(known)] = [c in keep for c in known]
        else:
            matrix = np.asarray(allowed, dtype=bool)
            if matrix.shape != exists.shape:
                raise NasplugError(
                    f"a mask of {space.name} has shape {exists.shape}, got {matrix.shape}"
                )
        self.allowed = matrix & exists
        if not self.allowed.any(1).all():
            empty = space.names[int(np.argmin(self.allowed.any(1)))]
            raise NasplugError(f"the mask leaves decision {empty!r} without a choice")
        # Each decision's allowed choices first: column j of row i is the outer choice of inner j.
        self._outer = np.argsort(~self.allowed, axis=1, kind="stable").astype(space.dtype)
        self._inner = np.argsort(self._outer, axis=1).astype(space.dtype)
        counts = self.allowed.sum(1)
        decisions = dict(zip(space.names, map(range, counts), strict=True))
        self._product = _Inner(decisions, space, self.outer)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"allowed": self.allowed}

    def outer(self, inner: Archs) -> Archs:
        """Coordinates within the mask -> archs of the space."""
        return self._outer[np.arange(self.space.d), inner]

    @property
    def size(self) -> int:
        return self._product.size

    def includes(self, archs: Archs) -> npt.NDArray[np.bool_]:
        return np.asarray(self.allowed[np.arange(self.space.d), archs].all(1))

    def all(self) -> Archs:
        """Every arch, (n, d), if they are few enough to list."""
        return self.outer(self._product.all())

    def sample(self, n: int, seed: Seed = None) -> Archs:
        return self.outer(self._product.sample(n, seed))

    def mutate(self, archs: Archs, seed: Seed = None, distance: int = 1) -> Archs:
        inner = self._inner[np.arange(self.space.d), np.asarray(archs)]
        return self.outer(self._product.mutate(inner, seed, distance))

    def describe(self) -> str:
        return f"mask of {self.space.name}: {self.size:,} points, {self.allowed.sum()} choices"


class _Inner(Space):
    """A region in coordinates of its own, in which it is a plain product.

    decisions: of the region. outer: (n, k) coordinates -> (n, d) archs of the space.
    """

    def __init__(
        self, decisions: Mapping[str, Sequence[Any]], space: Space, outer: Callable[[Archs], Archs]
    ) -> None:
        self._space, self._outer = space, outer
        super().__init__(decisions, f"a region of {space.name}")

    def is_valid(self, archs: Archs) -> npt.NDArray[np.bool_]:
        return self._space.is_valid(self._outer(archs))

    def canonical(self, archs: Archs) -> Archs:
        """(n, k) -> (n, d): of the archs that they are, which tells isomorphs as well."""
        return self._space.canonical(self._outer(archs))


class Ball(Subspace):
    """The archs at most `radius` decisions away from `center` (Chen et al., eq. 3)."""

    def __init__(self, space: Space, center: npt.ArrayLike, radius: int) -> None:
        self.space = space
        self.center = space.arch(center)
        if radius < 0:
            raise NasplugError(f"a ball's radius cannot be negative, got {radius}")
        self.radius = min(int(radius), len(space.shells) - 1)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"center": self.center, "radius": np.array(self.radius)}

    @property
    def size(self) -> int:
        return round(self.space.shells[: self.radius + 1].sum())

    def includes(self, archs: Archs) -> npt.NDArray[np.bool_]:
        return np.asarray(self.space.distance(archs, self.center) <= self.radius)

    def sample(self, n: int, seed: Seed = None) -> Archs:
        rng = np.random.default_rng(seed)
        shells = self.space.shells[: self.radius + 1]

        def draw(rows: Archs) -> Archs:
            distances = rng.choice(len(shells), len(rows), p=shells / shells.sum())
            return self.space.edit(np.repeat(self.center[None], len(rows), 0), distances, rng)

        return redraw(n, draw, lambda archs, rows: self.space.is_valid(archs))

    def describe(self) -> str:
        center = self.space.to_str(self.center)
        return f"ball of {self.space.name}: {self.size:,} points within {self.radius} of {center}"


class ArchSet(Subspace):
    """Explicit archs; `.archs` is their (size, d) array without duplicates."""

    def __init__(self, space: Space, archs: npt.ArrayLike) -> None:
        self.space = space
        self.archs = space.unique(space.check(archs))
        if not len(self.archs):
            raise NasplugError("a set subspace needs at least one arch")

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"archs": self.archs}

    @cached_property
    def _keys(self) -> frozenset[Any]:
        return frozenset(self.space.codes(self.archs).tolist())

    @cached_property
    def _classes(self) -> npt.NDArray[Any]:
        return self.space.classes(self.archs)

    @property
    def size(self) -> int:
        return len(self.archs)

    def includes(self, archs: Archs) -> npt.NDArray[np.bool_]:
        keys = self.space.codes(archs).tolist()
        return np.fromiter((k in self._keys for k in keys), bool, len(keys))

    def sample(self, n: int, seed: Seed = None) -> Archs:
        return self.archs[np.random.default_rng(seed).integers(self.size, size=n)]

    def mutate(self, archs: Archs, seed: Seed = None, distance: int = 1) -> Archs:
        """A random member near each arch: at `distance` half of the time, one further a quarter
        of the time, and so on, so that a walk gets from one pocket of the set to the next."""
        rng = np.random.default_rng(seed)
        archs = np.asarray(archs, dtype=self.space.dtype)
        own = self.space.classes(archs)
        farthest = len(self.space.shells) - 1
        edits = (distance - 1 + rng.geometric(0.5, len(archs))).clip(max=farthest)

        def accept(drawn: Archs, rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
            good = self.contains(drawn)
            good[good] = self.space.classes(drawn[good]) != own[rows[good]]
            return good

        # Most sets are dense enough that a random edit is a member.
        result, rows = try_draws(
            len(archs), lambda rows: self.space.edit(archs[rows], edits[rows], rng), accept, TRIES
        )
        for row in rows:
            others = self.archs[self._classes != own[row]]
            if not len(others):
                raise NasplugError(f"{self.describe()} has nothing to mutate to: all are isomorphs")
            away = self.space.distance(others, archs[row])
            steps = np.unique(np.abs(away - distance))
            step = steps[min(rng.geometric(0.5), len(steps)) - 1]
            result[row] = others[rng.choice(np.flatnonzero(np.abs(away - distance) == step))]
        return result

    def neighbors(self, arch: npt.ArrayLike, distance: int = 1) -> Archs:
        arch = self.space.arch(arch)
        near = self.space.distance(self.archs, arch) == distance
        return self.archs[near & (self._classes != self.space.classes(arch[None]))]

    def describe(self) -> str:
        return f"set of {self.size:,} archs of {self.space.name}"


class Layered(Subspace):
    """Each layer takes one of some choices of its own (learned spaces).

    The decisions of the space are those of its layers one after the other, as many in each;
    ``choices[i]`` (K_i, d / L) are what layer i may be. An edit is another choice of a layer:
    `mutate` and `neighbors` measure their distance in layers. In a space of two layers of two
    decisions each, ``Layered(space, [[[0, 1], [2, 0]], [[1, 1]]])`` lets the first layer be
    (0, 1) or (2, 0) and the second (1, 1): two archs.
    """

    def __init__(
        self,
        space: Space,
        choices: Sequence[npt.ArrayLike] | npt.NDArray[Any],
        counts: npt.ArrayLike | None = None,
    ) -> None:
        """counts: (L,) if `choices` are those of all layers one after the other."""
        if counts is not None:
            choices = np.split(np.asarray(choices), np.cumsum(np.asarray(counts))[:-1])
        self.space = space
        self.choices = [np.asarray(rows, dtype=space.dtype) for rows in choices]
        width = space.d / max(1, len(self.choices))
        for i, rows in enumerate(self.choices):
            if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
                raise NasplugError(
                    f"layer {i} of {len(self.choices)} has choices of shape {rows.shape}; "
                    f"{space.name} has {space.d} decisions in all"
                )
            if len(np.unique(rows, axis=0)) < len(rows):
                raise NasplugError(f"layer {i} has the same choice twice")
        self._counts = np.array([len(rows) for rows in self.choices])
        layers = {f"layer{i}": range(n) for i, n in enumerate(self._counts)}
        self._product = _Inner(layers, space, self.compose)
        space.check(self.compose(np.arange(self._counts.max())[:, None] % self._counts))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"choices": np.concatenate(self.choices), "counts": self._counts}

    def names(self) -> list[list[str]]:
        """The choices of each layer in words."""
        word = getattr(self.space, "layer_name", lambda i, row: str(row.tolist()))
        return [[word(i, row) for row in rows] for i, rows in enumerate(self.choices)]

    def compose(self, index: npt.ArrayLike) -> Archs:
        """(n, L) which choice of each layer -> (n, d) archs."""
        columns = np.asarray(index).T
        parts = [rows[column] for rows, column in zip(self.choices, columns, strict=True)]
        return np.concatenate(parts, axis=1)

    def index(self, archs: Archs) -> npt.NDArray[np.int64]:
        """(n, d) archs -> (n, L) which choice of each layer, -1 where none of them."""
        parts = np.split(np.asarray(archs), len(self.choices), axis=1)
        found = []
        for part, rows in zip(parts, self.choices, strict=True):
            same = (part[:, None] == rows).all(2)
            found.append(np.where(same.any(1), same.argmax(1), -1))
        return np.stack(found, axis=1)

    @property
    def size(self) -> int:
        return self._product.size

    def includes(self, archs: Archs) -> npt.NDArray[np.bool_]:
        return np.all(self.index(archs) >= 0, axis=1)

    def sample(self, n: int, seed: Seed = None) -> Archs:
        return self.compose(self._product.sample(n, seed))

    def mutate(self, archs: Archs, seed: Seed = None, distance: int = 1) -> Archs:
        return self.compose(self._product.mutate(self.index(archs), seed, distance))

    def neighbors(self, arch: npt.ArrayLike, distance: int = 1) -> Archs:
        inner = self.index(self.space.arch(arch)[None])[0]
        return self.compose(self._product.neighbors(inner, distance))

    def describe(self) -> str:
        few, many = self._counts.min(), self._counts.max()
        count = f"{many}" if few == many else f"{few} to {many}"
        layers = len(self.choices)
        return f"layers of {self.space.name}: {count} choices in each of {layers}, {self.size:.3g}"


def load(space: Space, path: Path) -> Subspace:
    """Read a subspace that `Subspace.save` wrote; NasplugError if it is of another space."""
    kinds: Any = {kind.__name__: kind for kind in Subspace.__subclasses__()}  # a space's own, too
    try:
        arrays: Any = read_arrays(path)
        kind, name, fingerprint = map(str, arrays.pop("about"))
        if fingerprint != space.fingerprint:
            raise ValueError(f"it is a subspace of {name}, whose archs are not {space.name}'s")
        return kinds[kind](space, **arrays)
    except Exception as error:  # a damaged file: see `read_arrays`
        raise NasplugError(f"{path} is no subspace of {space.name}: {error}") from None
