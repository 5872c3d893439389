"""Marked: the networks that a constructor of the user's own can build, with choices in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import import_module
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from nasplug.errors import NasplugError, unknown
from nasplug.kernel.space import Archs, Space
from nasplug.nn.choices import Marks, Scope, Sharing, answering, scopes
from nasplug.nn.data import layout, of_layout
from nasplug.nn.profile import Counter
from nasplug.nn.task import call, rows_of, shapes
from nasplug.nn.training import initialise

UNKNOWN = np.iinfo(np.int64).max  # the cost of a network that does not run: within no limit


class Measured(NamedTuple):
    """Of a network: parameters, and multiply-adds of one input."""

    params: int
    flops: int


class Marked(Space):
    """A space of networks whose constructor is marked with `nasplug.nn.Choice` and the like.

    factory: the class of the network, or any function that builds one. example: a batch of inputs,
    a tensor, or a tuple or dict of them, on which multiply-adds are counted, and every network is
    tried; without it, what a search takes from its data. only: {decision: index of the option} of
    what is fixed.

    The constructor is run for an arch with its options taken: what it builds is as if there had
    never been any mark. It has to meet the same marks each time, as far as earlier ones are the
    same.
    """

    own = True

    def __init__(
        self,
        factory: Callable[[], nn.Module],
        example: Any = None,
        *,
        only: Mapping[str, int] | None = None,
    ) -> None:
        if isinstance(factory, nn.Module) or not callable(factory):
            raise NasplugError(
                f"space_of takes the class of a network, or a function that builds one, got "
                f"{type(factory).__name__}"
            )
        batches = example is None or all(
            isinstance(x, Tensor) and x.ndim > 0 for x in tree_leaves(example)
        )
        if not batches or (isinstance(example, Tensor) and example.ndim < 2):
            raise NasplugError(
                "example is a batch of inputs such as torch.randn(2, 3, 32, 32), or a tuple or a "
                f"dict of such tensors; got {shapes(example)}"
            )
        self.factory, self.only = factory, dict(only or {})
        self.example = None if example is None else tree_map(lambda x: x.detach().cpu(), example)
        self.base = getattr(factory, "__name__", type(factory).__name__)
        self._measured: dict[bytes, Measured | str] = {}
        options = self._find_options()
        self.only = {name: i for name, i in self.only.items() if name in options}
        decisions = {
            name: (every[self.only[name]],) if name in self.only else every
            for name, every in options.items()
        }
        fixed = ",".join(f"{name}={decisions[name][0]}" for name in self.only)
        super().__init__(decisions, f"{self.base}:{fixed}" if fixed else self.base)

    def _find_options(self) -> dict[str, tuple[Any, ...]]:
        """{decision: options} of every mark: those under an option are met when it is taken."""
        found: dict[str, tuple[Any, ...]] = {}
        waiting: list[dict[str, int]] = [dict(self.only)]
        failure: Exception | None = None
        built = False
        for taken in waiting:  # which grows
            marks = Marks(taken)
            try:
                self._sketch(marks)
                built = True
            except Exception as error:
                failure = failure or error
            for name, options in marks.seen.items():
                if name not in found:
                    rest = [] if name in self.only else range(1, len(options))
                    waiting += [{**taken, name: i} for i in rest]
                if found.setdefault(name, options) != options:
                    raise NasplugError(
                        f"choice {name!r} has the options {list(found[name])}, and elsewhere "
                        f"{list(options)}: choices of one name are one decision"
                    )
        if not built:
            if isinstance(failure, NasplugError):
                raise failure
            raise NasplugError(
                f"{self.base} cannot be built: {type(failure).__name__}: {failure}"
            ) from failure
        if not found:
            raise NasplugError(
                f"{self.base} has no choices: mark some in its constructor, as nasplug.nn.Choice"
            )
        return found

    def fixed(self, choices: Mapping[str, Any]) -> Self:
        """The same space with some decisions made: ``space.fixed({"act": "gelu"})``."""
        only = dict(self.only)
        for name, choice in choices.items():
            if name not in self.decisions:
                raise unknown("decision", name, self.names)
            texts = [str(option) for option in self.decisions[name]]
            if str(choice) not in texts:
                raise unknown(f"choice of {name}", str(choice), texts)
            only.setdefault(name, texts.index(str(choice)))
        return type(self)(self.factory, self.example, only=only)

    # ---- networks

    def taken(self, arch: Archs) -> dict[str, int]:
        """{decision: index of its option}, which for a fixed one is not that of its choice."""
        return {**dict(zip(self.names, arch.tolist(), strict=True)), **self.only}

    def construct(self, marks: Marks) -> nn.Module:
        """What the constructor builds, its marks answered so."""
        with answering(marks):
            model = self.factory()
        if not isinstance(model, nn.Module):
            raise NasplugError(f"{self.base} builds {type(model).__name__}, no torch.nn.Module")
        return model

    def _sketch(self, marks: Marks) -> nn.Module:
        """The same without weights, if its constructor can do without; no random state changes."""
        try:
            with torch.device("meta"):
                return initialise(lambda: self.construct(marks), 0)
        except Exception:
            return initialise(lambda: self.construct(marks), 0)

    def build(self, arch: npt.ArrayLike) -> nn.Module:
        """One arch -> its network, freshly initialised, in which nothing is of nasplug.

        NasplugError that names the option that cannot be built, or does not fit where it stands.
        """
        arch = self.arch(arch)
        if self.example is not None:
            self.measure(arch)
        marks = Marks(self.taken(arch))
        model = self.construct(marks)
        if new := set(marks.seen) - set(self.names):
            raise NasplugError(
                f"choice {min(new)!r} of {self.base} turned up only now, with {self.to_str(arch)}: "
                "its constructor must meet the same choices each time"
            )
        return model

    def supernet(self, region: Any = None, partial: int = 1) -> nn.Module:
        """All archs in one network, a `nasplug.nn.Supernet`.

        NasplugError if a choice among values is used where its layers cannot share weights.
        """
        found: nn.Module = import_module("nasplug.spaces.marked.network").supernet(self, partial)
        return found

    def suited(self, example: Any, classes: int, dense: bool = False) -> Self:
        """This space, with this example if it had none; NasplugError if its networks take other
        inputs."""
        if self.example is None:
            return type(self)(self.factory, example, only=self.only).suited(example, classes, dense)
        wanted, given = (shapes(tree_map(lambda x: x[0], x)) for x in (self.example, example))
        if wanted != given:
            raise NasplugError(f"{self.base} is for inputs of {wanted}, and the data have {given}")
        try:
            self.measure(self.runs)
        except NasplugError as error:
            raise NasplugError(f"{self.base} cannot take inputs of {given}: {error}") from None
        return self

    @property
    def inputs(self) -> dict[str, Any] | None:
        """The layout of an input, if there is an example."""
        return None if self.example is None else layout(self.example)

    def with_inputs(self, inputs: Mapping[str, Any]) -> Self:
        """The same space with an example of a layout."""
        return type(self)(self.factory, of_layout(inputs), only=self.only)

    # ---- what networks cost

    def params(self, archs: Archs) -> npt.NDArray[np.int64]:
        """(n, d) -> (n,): the parameters of each network; of one that cannot run, the largest
        number there is."""
        return self.costs(archs)[0]

    def flops(self, archs: Archs) -> npt.NDArray[np.int64]:
        """(n, d) -> (n,): the multiply-adds of one input through each network; of one that cannot
        run, the largest number there is."""
        return self.costs(archs)[1]

    def costs(self, archs: Archs) -> npt.NDArray[np.int64]:
        """(n, d) -> (2, n): parameters and multiply-adds, counted on each distinct network."""
        rows, which = np.unique(self.canonical(archs), axis=0, return_inverse=True)
        found = np.full((2, len(rows)), UNKNOWN)
        for i, arch in enumerate(rows):
            measured = self._look(arch)
            if isinstance(measured, Measured):
                found[:, i] = measured.params, measured.flops
        return found[:, which.ravel()]

    def measure(self, arch: Archs) -> Measured:
        """What a network costs; NasplugError that says why it cannot run."""
        if isinstance(found := self._look(arch), str):
            raise NasplugError(found)
        return found

    def _look(self, arch: Archs) -> Measured | str:
        """Measured, once for all isomorphic archs, or why that cannot be."""
        key = self.canonical(arch[None])[0].astype(self.dtype).tobytes()
        if key not in self._measured:
            try:
                self._measured[key] = self._measure(arch)
            except NasplugError as error:
                if self.example is None:
                    raise
                self._measured[key] = str(error)
            except Exception as error:
                self._measured[key] = self._explained(arch, error)
        return self._measured[key]

    def _measure(self, arch: Archs) -> Measured:
        if self.example is None:
            raise NasplugError(
                f"what networks of {self.base} cost is counted on an example: "
                "nasplug.space_of(Net, example=torch.randn(2, 3, 32, 32))"
            )
        model = initialise(lambda: self.construct(Marks(self.taken(arch))), 0)
        for x in (*model.parameters(), *model.buffers()):
            if x.device.type != "cpu":
                raise NasplugError(
                    f"networks of {self.base} have weights or buffers on {x.device}: make them on "
                    "the CPU, from where training moves them"
                )
        counter = Counter()  # type: ignore[no-untyped-call]
        with torch.enable_grad(), counter:
            call(model.eval(), rows_of(self.example, slice(1)))
        return Measured(sum(p.numel() for p in model.parameters()), counter.flops // 2)

    def _explained(self, arch: Archs, error: Exception) -> str:
        """Why an arch cannot run: the option in whose place most others of its decision can."""
        said = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        shares = np.zeros(self.d)
        for i, n in enumerate(self.cardinalities):
            others = [j for j in range(n) if j != arch[i]]
            runs = [self._runs(np.where(np.arange(self.d) == i, j, arch)) for j in others]
            shares[i] = np.mean(runs) if runs else 0
        if not shares.any():
            return f"{self.to_str(arch)} does not run: {said}"
        name, choice = [*self.to_dict(arch).items()][int(shares.argmax())]
        return f"option {choice!r} of {name!r} does not fit where it stands: {said}"

    def _runs(self, arch: Archs) -> bool:
        try:
            self._measure(arch)
        except Exception:
            return False
        return True

    @cached_property
    def runs(self) -> Archs:
        """(d,) the first arch whose network runs, among those one choice away from the first; the
        first, if none does."""
        first = np.zeros(self.d, self.dtype)
        archs = (first, *(one for row in self.alternatives for one in row))
        return next((arch for arch in archs if isinstance(self._look(arch), Measured)), first)

    # ---- which choices matter

    @cached_property
    def scopes(self) -> dict[str, set[Scope]]:
        """{decision: under which options of others it stands}; none where that cannot be told."""
        marks = Sharing(self.names, self.only)
        try:
            return scopes(self._sketch(marks), self.names)
        except Exception:  # its values are used in ways that only a plain network can follow
            return {}

    def canonical(self, archs: Archs) -> Archs:
        """(n, d) -> (n, d): choices under an option that is not taken are the first ones."""
        archs = np.asarray(archs)
        found = archs.copy()
        columns = {name: archs[:, i] for i, name in enumerate(self.names)}
        for i, name in enumerate(self.names):
            met = np.zeros(len(archs), bool)
            for scope in self.scopes.get(name, {()}):
                met |= np.all([np.isin(columns[p], [*some]) for p, some in scope] or True, axis=0)
            found[~met, i] = 0
        return found

    @property
    def alternatives(self) -> list[Archs]:
        """For each decision, (choices, d) archs that differ in it alone, and in which it counts."""
        found = []
        for i, (name, n) in enumerate(zip(self.names, self.cardinalities, strict=True)):
            arch = np.zeros(self.d, self.dtype)
            for parent, some in min(self.scopes.get(name, {()}), key=len):
                arch[self.names.index(parent)] = min(some)
            archs = np.repeat(arch[None], n, 0)
            archs[:, i] = np.arange(n)
            found.append(archs)
        return found


def space_of(factory: Callable[[], nn.Module], example: Any = None) -> Marked:
    """The space of a network of your own, whose constructor is marked with choices.

    factory: its class, or a function that builds it. example: a batch of inputs, a tensor, or a
    tuple or dict of them, by which multiply-adds are counted; by default the data of the search
    are.
    """
    return Marked(factory, example)
