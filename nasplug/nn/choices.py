"""Choices in place: marks in the constructor of a network of the user's own.

What a mark becomes depends on what the constructor runs for. Called by itself, or for an arch, each
mark becomes the option that is taken, and nothing of nasplug is left in the network. For a supernet
a choice among modules becomes all of them, one among values a `Value` that its layers look up, and
a repetition all its blocks.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import reduce
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from nasplug.errors import NasplugError
from nasplug.nn.mixed import MixedOp, Zero, batch_statistics

Option = nn.Module | Callable[[], nn.Module]
Scope = tuple[tuple[str, frozenset[int]], ...]  # (decision, its options): under which a mark stands


# ---- what users write


def Choice(options: Mapping[str, Option] | Sequence[Any], name: str) -> Any:  # noqa: N802
    """One of some modules, ``{"conv": nn.Conv2d(...), "skip": nn.Identity()}``, or of some values,
    ``[16, 24, 32]``, wherever a constructor wants a module or a value.

    A module may be given as a function that makes it, which is then called only if it is taken.
    Choices of one name are one decision, and need the same options.
    """
    if isinstance(options, str) or not hasattr(options, "__len__"):
        raise NasplugError(
            f"choice {name!r} needs a list of values, or a dict of modules, got {options!r}"
        )
    if not len(options):
        raise NasplugError(f"choice {name!r} has no options")
    if not isinstance(options, Mapping):
        if any(isinstance(option, nn.Module) for option in options):
            raise NasplugError(
                f'choice {name!r} is among modules: give them names, {{"conv": module, ...}}'
            )
        return _marks().value(str(name), tuple(options))
    for one, option in options.items():
        if not isinstance(option, nn.Module) and not callable(option):
            raise NasplugError(
                f"option {one!r} of {name!r} is neither a module nor a function that makes one: "
                f"{option!r}; values come as a list"
            )
    return _marks().module(str(name), {str(one): option for one, option in options.items()})


def Repeat(  # noqa: N802
    make: Callable[[int], nn.Module], least: int, most: int, name: str
) -> nn.Module:
    """`least` to `most` blocks one after the other, ``make(i)`` each: the choice of a depth."""
    if not 0 <= least <= most or not most:
        raise NasplugError(f"{name!r} repeats from {least} to {most} times, which is no range")
    return _marks().repeat(str(name), range(least, most + 1), make)


def layer(make: Callable[..., nn.Module], *args: Any, **keywords: Any) -> nn.Module:
    """``make(*args, **keywords)``, where values may be choices: any class of layers, or a function.

    In a supernet it is as large as its largest choice; the others are its first channels, and the
    middle of its kernel.
    """
    return _marks().layer(make, args, keywords)


def Conv2d(*args: Any, **keywords: Any) -> nn.Conv2d:  # noqa: N802
    """``torch.nn.Conv2d`` with values that may be choices; see `layer`."""
    return layer(nn.Conv2d, *args, **keywords)  # type: ignore[return-value]


def Linear(*args: Any, **keywords: Any) -> nn.Linear:  # noqa: N802
    """``torch.nn.Linear`` with values that may be choices; see `layer`."""
    return layer(nn.Linear, *args, **keywords)  # type: ignore[return-value]


def BatchNorm2d(*args: Any, **keywords: Any) -> nn.BatchNorm2d:  # noqa: N802
    """``torch.nn.BatchNorm2d`` with values that may be choices; see `layer`."""
    return layer(nn.BatchNorm2d, *args, **keywords)  # type: ignore[return-value]


# ---- what marks become: in a plain network


class Marks:
    """Answers the marks of one run of a constructor: with what is taken, else the first option.

    taken: {name: index of the option}. `seen` collects the options of each mark that was met.
    """

    def __init__(self, taken: Mapping[str, int] | None = None) -> None:
        self.taken = dict(taken or {})
        self.seen: dict[str, tuple[Any, ...]] = {}

    def index(self, name: str, options: Sequence[Any]) -> int:
        """Which of the options is taken."""
        labels = tuple(map(label, options))
        if (before := self.seen.setdefault(name, labels)) != labels:
            raise NasplugError(
                f"two choices are named {name!r} and have different options, {list(before)} and "
                f"{list(labels)}: choices of one name are one decision"
            )
        return self.taken.get(name, 0)

    def value(self, name: str, options: Sequence[Any]) -> Any:
        return options[self.index(name, options)]

    def module(self, name: str, options: Mapping[str, Option]) -> nn.Module:
        taken = [*options][self.index(name, [*options])]
        return made(name, taken, options[taken])

    def repeat(self, name: str, counts: range, make: Callable[[int], nn.Module]) -> nn.Module:
        n = counts[self.index(name, counts)]
        return nn.Sequential(*(block(name, i, make) for i in range(n)))

    def layer(self, make: Callable[..., nn.Module], args: Any, keywords: Any) -> nn.Module:
        return make(*args, **keywords)


_current: ContextVar[Marks | None] = ContextVar("marks", default=None)


def _marks() -> Marks:
    return _current.get() or Marks()


@contextmanager
def answering(marks: Marks) -> Iterator[None]:
    """The marks of constructors that run meanwhile are answered so."""
    token = _current.set(marks)
    try:
        yield
    finally:
        _current.reset(token)


def label(option: Any) -> Any:
    """What names an option among values: itself, or the name of a function or a class."""
    if isinstance(option, bool | int | float | str | None):
        return option
    return getattr(option, "__name__", None) or re.sub(" at 0x[0-9a-fA-F]+", "", str(option))


def made(name: str, taken: str, option: Option) -> nn.Module:
    """The module of an option; NasplugError that names it, if that fails."""
    if isinstance(option, nn.Module):
        return option
    try:
        module = option()
    except NasplugError:
        raise
    except Exception as error:
        raise NasplugError(
            f"option {taken!r} of {name!r} cannot be built: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise NasplugError(f"option {taken!r} of {name!r} makes no module, but {module!r}")
    return module


def block(name: str, i: int, make: Callable[[int], nn.Module]) -> nn.Module:
    """The i-th of some blocks."""
    return made(name, f"block {i}", lambda: make(i))


# ---- in a supernet


class Path:
    """Which option of each choice among values and depths a supernet takes now, and the weights of
    decisions that are learned."""

    def __init__(self) -> None:
        self.building = True
        self.options: dict[str, tuple[Any, ...]] = {}
        self.index: dict[str, int] = {}
        self.weights: dict[str, Tensor] = {}

    def weigh(self, names: Sequence[str], output: Any) -> Any:
        """An output times the weights of its decisions, which are 1, but have a gradient."""
        weights = [self.weights[name] for name in names if name in self.weights]
        return reduce(torch.mul, weights, output)


class Sharing(Marks):
    """Answers the marks of a supernet.

    names: of the decisions, in order. only: {name: index} of those that have one option left.
    """

    def __init__(self, names: Sequence[str], only: Mapping[str, int]) -> None:
        super().__init__(only)
        self.names, self.path = [*names], Path()

    def index(self, name: str, options: Sequence[Any]) -> int:
        if name not in self.names:
            raise NasplugError(f"choice {name!r} was not there when the constructor ran before")
        self.path.options[name] = tuple(options)
        self.path.index[name] = 0
        return super().index(name, options)

    def value(self, name: str, options: Sequence[Any]) -> Any:
        found = super().value(name, options)
        path = self.path
        return found if name in self.taken else Value(path, (name,), lambda at: options[at[name]])

    def module(self, name: str, options: Mapping[str, Option]) -> nn.Module:
        self.index(name, [*options])
        if name in self.taken:
            return super().module(name, options)
        ops = [self._op(name, one, option) for one, option in options.items()]
        return Options(ops, self.names.index(name))

    def _op(self, name: str, taken: str, option: Option) -> nn.Module:
        try:
            return made(name, taken, option)
        except NasplugError as error:
            return Broken(str(error))

    def repeat(self, name: str, counts: range, make: Callable[[int], nn.Module]) -> nn.Module:
        self.index(name, counts)
        if name in self.taken:
            return super().repeat(name, counts, make)
        blocks = [block(name, i, make) for i in range(counts[-1])]
        return Repeated(self.path, name, counts, blocks)

    def layer(self, make: Callable[..., nn.Module], args: Any, keywords: Any) -> nn.Module:
        if any(isinstance(value, Value) for value in (*args, *keywords.values())):
            return Elastic(self.path, make, args, keywords)
        return make(*args, **keywords)


class Value:
    """A choice among values in a supernet, or what is computed from some: ``width // 2``.

    While the supernet is made it is known to `layer` alone; afterwards it is the number that the
    path takes, wherever torch wants one.
    """

    __hash__ = object.__hash__

    def __init__(
        self, path: Path, names: Sequence[str], at: Callable[[Mapping[str, int]], Any]
    ) -> None:
        self.path, self.names, self.at = path, tuple(dict.fromkeys(names)), at

    @property
    def now(self) -> Any:
        """By the path that is taken; NasplugError while the network is made."""
        if self.path.building:
            raise NasplugError(
                f"the choice {' and '.join(map(repr, self.names))} is among values, which a "
                "supernet has all at once: make the layers that take it by nasplug.nn's Conv2d, "
                "Linear, BatchNorm2d or layer(torch.nn.CLASS, ...)"
            )
        return self.at(self.path.index)

    @property
    def largest(self) -> Any:
        """Of all paths; the first, if it is no number."""
        counts = [range(len(self.path.options[name])) for name in self.names]
        values = [self.at(dict(zip(self.names, i, strict=True))) for i in product(*counts)]
        numbers = all(isinstance(value, int | float) for value in values)
        return max(values) if numbers else values[0]

    def _with(self, function: Callable[..., Any], a: Any, b: Any) -> Value:
        values = [x for x in (a, b) if isinstance(x, Value)]
        names = [name for value in values for name in value.names]
        return Value(self.path, names, lambda at: function(resolved(a, at), resolved(b, at)))

    def __add__(self, other: Any) -> Value:
        return self._with(operator.add, self, other)

    def __radd__(self, other: Any) -> Value:
        return self._with(operator.add, other, self)

    def __sub__(self, other: Any) -> Value:
        return self._with(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Value:
        return self._with(operator.sub, other, self)

    def __mul__(self, other: Any) -> Value:
        return self._with(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Value:
        return self._with(operator.mul, other, self)

    def __floordiv__(self, other: Any) -> Value:
        return self._with(operator.floordiv, self, other)

    def __index__(self) -> int:
        return operator.index(self.now)

    def __int__(self) -> int:
        return int(self.now)

    def __float__(self) -> float:
        return float(self.now)

    def __bool__(self) -> bool:
        return bool(self.now)

    def __eq__(self, other: object) -> bool:
        return bool(self.now == other)

    def __lt__(self, other: Any) -> bool:
        return bool(self.now < other)

    def __le__(self, other: Any) -> bool:
        return bool(self.now <= other)

    def __gt__(self, other: Any) -> bool:
        return bool(self.now > other)

    def __ge__(self, other: Any) -> bool:
        return bool(self.now >= other)

    def __str__(self) -> str:
        return str(self.now)


def resolved(value: Any, at: Mapping[str, int]) -> Any:
    """What a value is on a path, if it is a choice."""
    return value.at(at) if isinstance(value, Value) else value


class Options(MixedOp):
    """The options of a choice among modules; on a single path whatever these take and return."""

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        if not self.terms:
            (zero,) = [op for op in self.ops if isinstance(op, Zero)]
            return zero(*inputs)
        outputs = [op(*inputs, **keywords) for op, _ in self.terms]
        weights = [weight for _, weight in self.terms]
        if len(outputs) == 1 and (weights[0] is None or not weights[0].requires_grad):
            return outputs[0]  # its weight is 1
        weighted = [x if w is None else w * x for w, x in zip(weights, outputs, strict=True)]
        return reduce(torch.add, weighted)


class Broken(nn.Module):
    """An option that could not be built, which matters once it is taken."""

    def __init__(self, error: str) -> None:
        super().__init__()
        self.error = error

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        raise NasplugError(self.error)


class Repeated(nn.Sequential):
    """Blocks of which the first run, as many as the path says."""

    def __init__(self, path: Path, name: str, counts: range, blocks: Sequence[nn.Module]) -> None:
        super().__init__(*blocks)
        self.path, self.name, self.counts = path, name, counts

    @property
    def running(self) -> list[nn.Module]:
        return [*self][: self.counts[self.path.index[self.name]]]

    def forward(self, x: Any) -> Any:
        for one in self.running:
            x = one(x)
        return self.path.weigh([self.name], x)


class Elastic(nn.Module):
    """A layer of the largest size, of which a path takes a slice: the first channels, and of what
    has more dimensions, such as kernels, the middle."""

    def __init__(
        self, path: Path, make: Callable[..., nn.Module], args: Sequence[Any], keywords: Any
    ) -> None:
        super().__init__()
        self.path, self.make, self.args, self.keywords = path, make, args, keywords
        values = [value for value in (*args, *keywords.values()) if isinstance(value, Value)]
        self.names = tuple(dict.fromkeys(name for value in values for name in value.names))
        self.largest = self._make(lambda value: value.largest)
        self.layers: dict[tuple[int, ...], nn.Module] = {}  # by path, without weights

    def _make(self, of: Callable[[Value], Any]) -> nn.Module:
        args = [of(value) if isinstance(value, Value) else value for value in self.args]
        keywords = {k: of(v) if isinstance(v, Value) else v for k, v in self.keywords.items()}
        return self.make(*args, **keywords)

    @property
    def layer(self) -> nn.Module:
        """As it is on the path, without weights."""
        key = tuple(self.path.index[name] for name in self.names)
        if key not in self.layers:
            with torch.device("meta"):
                self.layers[key] = batch_statistics(self._make(lambda v: v.at(self.path.index)))
        return self.layers[key].train(self.training)

    def weights(self) -> dict[str, Tensor]:
        """{name: weight or buffer of the layer on the path}, as slices."""
        whole, names = self.largest.state_dict(keep_vars=True), " and ".join(self.names)
        found = {}
        for name, x in self.layer.state_dict().items():
            if name not in whole or not _fits(whole[name], x):
                raise NasplugError(
                    f"the weights of {type(self.largest).__name__} are no slices of its largest, "
                    f"so that the choice of {names} cannot share them"
                )
            found[name] = sliced(whole[name], x.shape)
        return found

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        output = torch.func.functional_call(self.layer, self.weights(), inputs, keywords)
        return self.path.weigh(self.names, output)


def _fits(whole: Tensor, part: Tensor) -> bool:
    return whole.ndim == part.ndim and all(map(operator.ge, whole.shape, part.shape))


def sliced(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The first rows and columns of a tensor, and the middle of its other dimensions."""
    for i, n in enumerate(shape):
        x = x.narrow(i, 0 if i < 2 else (x.shape[i] - n) // 2, n)
    return x


def taken_weights(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The `state_dict` that the plain network of a supernet's path has."""
    if isinstance(module, Options):
        return taken_weights(module.terms[0][0], prefix) if module.terms else {}
    if isinstance(module, Elastic):
        return {prefix + name: x for name, x in module.weights().items()}
    running = len(module.running) if isinstance(module, Repeated) else None
    children = [*module._modules.items()][:running]  # `named_children` would skip what stands twice
    whole = module.state_dict(keep_vars=True)
    found = {prefix + name: x for name, x in whole.items() if "." not in name}
    for name, child in children:
        if child is not None:
            found |= taken_weights(child, f"{prefix}{name}.")
    return found


def scopes(module: nn.Module, names: Sequence[str], here: Scope = ()) -> dict[str, set[Scope]]:
    """{decision: under which options of others it stands}, for all marks in a supernet.

    Values that a module keeps as attributes count where the module stands.
    """
    found: dict[str, set[Scope]] = {}

    def note(more: Mapping[str, set[Scope]]) -> None:
        for name, places in more.items():
            found.setdefault(name, set()).update(places)

    if isinstance(module, Elastic):
        return {name: {here} for name in module.names}
    for value in vars(module).values():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, Value):
                note({name: {here} for name in one.names})
    children = [(child, here) for child in module.children()]
    if isinstance(module, Options):
        name = names[module.decision]
        note({name: {here}})
        children = [(op, (*here, (name, frozenset([i])))) for i, op in enumerate(module.ops)]
    elif isinstance(module, Repeated):
        note({module.name: {here}})
        children = []
        for i, child in enumerate(module):
            deep = frozenset(k for k, n in enumerate(module.counts) if n > i)
            everywhere = len(deep) == len(module.counts)
            children.append((child, here if everywhere else (*here, (module.name, deep))))
    for child, scope in children:
        note(scopes(child, names, scope))
    return found
