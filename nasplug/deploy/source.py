"""A network as one readable Python file that needs torch alone.

Every module that is not torch's own becomes a class: its forward pass is what torch.fx traces of
it, with the modules inside left as calls. The tree of modules is one expression, so that attributes
have the names that they had, and so do the weights.
"""

from __future__ import annotations

import ast
import inspect
import keyword
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn

from nasplug.errors import NasplugError

WIDTH = 100
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
REACHED = ("call_module", "get_attr")  # nodes of fx that name what is in a module
PLAIN = (bool, int, float, str, type(None))
IMPORTED = {"torch", "device", "inf", "nan", "NoneType"}  # what fx's code may name

HEAD = '''"""{doc}

Written by nasplug {version}; it needs torch alone. The weights are in {weights}, beside it.

    from {name} import load
    model = load()  # to evaluate
"""

from collections import OrderedDict
from math import inf, nan
from pathlib import Path

import torch
from torch import device, nn

ABOUT = """{about}"""  # where it comes from, as JSON


class Parts(nn.Module):
    """A module whose attributes are given: modules, parameters, and tensors, which are buffers."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, (nn.Module, nn.Parameter)):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

'''
TAIL = '''
def build():
    """The network, freshly initialised."""
    return {tree}


def load(weights=Path(__file__).with_name("{weights}")):
    """The network with its weights, to evaluate."""
    model = build()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval()


if __name__ == "__main__":
    print(load())
'''


Called = tuple[tuple[Any, ...], dict[str, Any], Any]  # arguments, those by name, output
Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any], Any]


@dataclass
class Text:
    """An expression: ``head(item, item)``; broken into lines where it is too long for one."""

    head: str
    items: list[tuple[str, Any]] = field(default_factory=list)  # (``name=`` or "", Text or str)
    tail: str = ""

    def flat(self) -> str:
        inner = ", ".join(
            key + (one if isinstance(one, str) else one.flat()) for key, one in self.items
        )
        return f"{self.head}{inner}{self.tail}"

    def lines(self, indent: int) -> str:
        flat = self.flat()
        if len(flat) + indent <= WIDTH or not self.items:
            return flat
        pad = " " * (indent + 4)
        inner = [
            pad + key + (one if isinstance(one, str) else one.lines(indent + 4)) + ",\n"
            for key, one in self.items
        ]
        return f"{self.head}\n{''.join(inner)}{' ' * indent}{self.tail}"


class Leaves(fx.Tracer):
    """Traces a module by itself: those inside are left as calls."""

    def is_leaf_module(self, m: nn.Module, name: str) -> bool:
        return True


class Writer:
    """Collects the classes of a network while its tree of modules is written."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.model = model
        self.calls = _calls(model, args, kwargs)
        self.classes: dict[str, str] = {}  # name -> its code
        self.tensors: dict[str, Tensor] = {}  # all that the weights have to hold

    def write(self, doc: str, about: str, version: str, name: str) -> str:
        """The whole file."""
        tree = self.tree(self.model, "")
        weights = f"{name}.pt"
        classes = "\n\n".join(self.classes.values())
        head = HEAD.format(doc=doc, about=about, version=version, name=name, weights=weights)
        return f"{head}\n{classes}\n{TAIL.format(tree=tree.lines(4), weights=weights)}"

    def tree(self, module: nn.Module, at: str) -> Text:
        """The expression that makes a module."""
        kind = type(module)
        if isinstance(module, CONTAINERS) and kind.forward is _container(module).forward:
            return self._container(module, at)
        if self._does_nothing(module):  # such as stochastic depth, to evaluate
            return Text("nn.Identity()")
        own = torch_class(kind)
        if own and (kind is own or self._is_its_torch_class(module, own)):
            self._keep(module, at)
            return Text(f"nn.{own.__name__}(", _arguments(module, own), ")")
        return self._traced(module, at)

    def _container(self, module: nn.Module, at: str) -> Text:
        children = [(name, self.tree(one, f"{at}{name}.")) for name, one in _children(module)]
        name = _container(module).__name__
        numbered = [name for name, _ in children] == [str(i) for i in range(len(children))]
        if isinstance(module, nn.ModuleDict):
            return Text(f"nn.{name}({{", [(f'"{key}": ', one) for key, one in children], "})")
        if isinstance(module, nn.ModuleList):
            return Text(f"nn.{name}([", [("", one) for _, one in children], "])")
        if numbered:
            return Text(f"nn.{name}(", [("", one) for _, one in children], ")")
        pairs = [("", Text("(", [("", f'"{key}"'), ("", one)], ")")) for key, one in children]
        return Text(f"nn.{name}(OrderedDict([", pairs, "]))")

    def _traced(self, module: nn.Module, at: str) -> Text:
        """A class of the file, for a module that is not torch's."""
        graph = self._graph(module, at)
        if child := _passed_through(graph, module):
            return self.tree(child, f"{at}{graph_targets(graph)[0]}.")
        used = {str(n.target).partition(".")[0] for n in graph.nodes if n.op in REACHED}
        children = {name: child for name, child in _children(module) if name in used}
        if _in_order(graph, children):
            return self._container(nn.Sequential(*children.values()), at)
        sequence = isinstance(module, nn.Sequential) and [*children] == [
            str(i) for i in range(len(module))
        ]
        code = _forward(graph, module, sequence)
        base = "nn.Sequential" if sequence else "Parts"
        name = self._named(type(module), base, code)
        parts = [
            ("" if sequence else f"{key}=", self.tree(one, f"{at}{key}."))
            for key, one in children.items()
        ]
        return Text(f"{name}(", [*parts, *self._own(module, graph, at)], ")")

    def _own(self, module: nn.Module, graph: fx.Graph, at: str) -> Iterator[tuple[str, Any]]:
        """The parameters and other tensors of a module itself."""
        used = {node.target for node in graph.nodes if node.op == "get_attr"}
        parameters = dict(module.named_parameters(recurse=False))
        for name, tensor in {**_tensors(module), **_constants(module, used)}.items():
            self.tensors[at + name] = tensor.detach().cpu().contiguous()
            made = f"torch.empty({tuple(tensor.shape)}"
            made += ")" if tensor.dtype == torch.float32 else f", dtype={tensor.dtype})"
            made = f"nn.Parameter({made})" if name in parameters else made
            yield f"{name}=", made

    def _keep(self, module: nn.Module, at: str) -> None:
        for name, tensor in module.state_dict().items():
            self.tensors[at + name] = tensor.detach().cpu().contiguous()

    def _graph(self, module: nn.Module, at: str) -> fx.Graph:
        """What its forward pass does; NasplugError if that depends on its inputs' values."""
        where = f"{at[:-1] or 'the network'} ({type(module).__name__})"
        if not (call := self._call(module)):
            raise NasplugError(f"{where} is never run by itself: it cannot be written as Python")
        _, given, named, _ = call
        parameters = [*inspect.signature(module.forward).parameters.values()]
        left_out = {
            p.name: p.default
            for p in parameters[len(given) :]
            if p.name not in named and p.default is not p.empty
        }
        values = dict(zip([p.name for p in parameters], given, strict=False)) | dict(named)
        fixed = {name: value for name, value in values.items() if isinstance(value, PLAIN)}
        try:
            graph = Leaves().trace(module, concrete_args={**left_out, **fixed} or None)
        except Exception as error:
            said = str(error).strip().splitlines()[0]
            raise NasplugError(
                f"{where} cannot be written as Python: what its forward pass does depends on its "
                f"inputs ({type(error).__name__}: {said}); formats onnx and export may do"
            ) from error
        graph.set_codegen(fx.graph.CodeGen())  # another one flattens the arguments
        for node in graph.nodes:
            node.type = None  # hints name things that the file would have to import
        _drop_unused(graph, set(left_out))
        return graph

    def _call(self, module: nn.Module) -> Call | None:
        """How it was run, or another one of its class: some share what one of them computes."""
        alike = (one for one in self.calls if type(one) is type(module))
        run = module if module in self.calls else next(alike, None)
        return None if run is None else (run, *self.calls[run])

    def _does_nothing(self, module: nn.Module) -> bool:
        """Whether a module that is not torch's returns what it is given."""
        args, _, output = self.calls.get(module, ((), {}, None))
        own = type(module).__module__.startswith("torch.")
        return bool(args) and args[0] is output and not own and not module.state_dict()

    def _is_its_torch_class(self, module: nn.Module, own: type[nn.Module]) -> bool:
        """Whether a module computes what the class of torch does that it is derived from."""
        if not (call := self._call(module)):
            return False
        run, args, kwargs, output = call
        try:
            with torch.no_grad():
                plain = own.forward(run, *args, **kwargs)
        except Exception:
            return False
        return isinstance(plain, Tensor) and torch.allclose(plain, output, rtol=1e-4, atol=1e-5)

    def _named(self, kind: type, base: str, code: str) -> str:
        """The name of a class that does this: its own, or that with a number."""
        stem, number = kind.__name__, 1
        if hasattr(nn, stem) or stem in ("Parts", "Path", "OrderedDict") or keyword.iskeyword(stem):
            stem += "Module"
        while True:
            name = stem if number == 1 else f"{stem}{number}"
            text = f"class {name}({base}):\n{code}"
            if self.classes.setdefault(name, text) == text:
                return name
            number += 1


def _calls(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[nn.Module, Called]:
    """{module: with what it was called last, and what it returned}."""
    seen: dict[nn.Module, Called] = {}

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen[module] = args, kwargs, output

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in model.modules()]
    with torch.no_grad():
        model(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return seen


def torch_class(kind: type) -> type[nn.Module] | None:
    """The nearest class of torch.nn that a class is or is derived from, if it is no container."""
    for one in kind.__mro__:
        if one.__module__.startswith("torch.nn.modules") and getattr(nn, one.__name__, 0) is one:
            plain = one is nn.Module or issubclass(one, CONTAINERS)
            return None if plain else one
    return None


def _arguments(module: nn.Module, own: type[nn.Module]) -> list[tuple[str, Any]]:
    """Those of its constructor, read off its attributes; what is the default is left out."""
    recurrent = issubclass(own, nn.RNNBase)
    signature = inspect.signature(nn.RNNBase.__init__ if recurrent else own.__init__)
    found: list[tuple[str, Any]] = []
    for name, parameter in [*signature.parameters.items()][1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):  # nn.Identity
            continue
        if name in ("device", "dtype") or (recurrent and name == "mode"):
            continue
        value = getattr(module, name, parameter.default)
        if name.startswith("bias") and (value is None or isinstance(value, Tensor)):
            value = value is not None
        if parameter.default is parameter.empty:
            found.append(("", repr(_short(value))))
        elif _short(value) != _short(parameter.default) and not isinstance(value, Tensor):
            found.append((f"{name}=", repr(_short(value))))
    return found


def _short(value: Any) -> Any:
    """``(3, 3)`` as ``3``, which torch takes as well."""
    same = isinstance(value, tuple) and len(value) > 1 and len({*value}) == 1
    return value[0] if same else value


def _container(module: nn.Module) -> type[nn.Module]:
    return next(kind for kind in CONTAINERS if isinstance(module, kind))


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """All of them, those that stand in two places twice."""
    return [(name, child) for name, child in module._modules.items() if child is not None]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Its own parameters and buffers."""
    return {
        **dict(module.named_parameters(recurse=False)),
        **dict(module.named_buffers(recurse=False)),
    }


def _constants(module: nn.Module, used: set[Any]) -> dict[str, Tensor]:
    """Tensors that are neither parameters nor buffers, but are used."""
    known = _tensors(module)
    found = {name: getattr(module, name, None) for name in used if "." not in name}
    return {k: v for k, v in found.items() if k not in known and isinstance(v, Tensor)}


# ---- the forward pass of one module


def graph_targets(graph: fx.Graph) -> list[str]:
    """The modules that it calls, in their order."""
    return [str(node.target) for node in graph.nodes if node.op == "call_module"]


def _drop_unused(graph: fx.Graph, fixed: set[str]) -> None:
    """Without what fx adds to see whether arguments are those that it was traced with."""
    for node in reversed(list(graph.nodes)):
        checks = node.op == "call_function" and "assert" in getattr(node.target, "__name__", "")
        given = node.op == "placeholder" and any(
            str(node.target) == name or str(node.target).startswith(f"{name}_") for name in fixed
        )
        if (checks or given) and not node.users:
            graph.erase_node(node)


def _passed_through(graph: fx.Graph, module: nn.Module) -> nn.Module | None:
    """The only child, if all that a module does is to call it, and it has no weights."""
    targets = graph_targets(graph)
    if [node.op for node in graph.nodes] == ["placeholder", "call_module", "output"]:
        child = module.get_submodule(targets[0])
        chain = list(graph.nodes)
        if chain[1].args == (chain[0],) and not chain[1].kwargs and chain[2].args == (chain[1],):
            return None if child.state_dict() else child
    return None


def _in_order(graph: fx.Graph, children: Mapping[str, nn.Module]) -> bool:
    """Whether it is what nn.Sequential does with modules that are numbered."""
    nodes = list(graph.nodes)
    names = [str(i) for i in range(len(children))]
    if [*children] != names or graph_targets(graph) != names or len(nodes) != len(names) + 2:
        return False
    return all(node.args == (before,) and not node.kwargs for before, node in pairwise(nodes))


def _forward(graph: fx.Graph, module: nn.Module, sequence: bool) -> str:
    """Its code, as fx writes it, with the modules by the names that people give them."""
    code = graph.python_code("self")
    named = {name.partition(".")[0] for name in code.globals} - IMPORTED
    foreign = [name for name in sorted(named) if re.search(rf"\b{name}\b", code.src)]
    if foreign:
        raise NasplugError(
            f"{type(module).__name__} cannot be written as Python: it uses {foreign[0]}, which is "
            "not torch's; formats onnx and export may do"
        )
    function = ast.parse(code.src).body[-1]
    assert isinstance(function, ast.FunctionDef)
    function.returns = None
    function.body = [line for line in function.body if not _frees(line)]
    text = ast.unparse(function)
    for target in sorted(set(graph_targets(graph)), key=len, reverse=True):
        text = text.replace(f"{_as_fx_writes(target)}(", f"{_path(module, target, sequence)}(")
    return textwrap.indent(text, "    ") + "\n"


def _frees(line: ast.stmt) -> bool:
    """Whether it is ``x = y = None``, by which fx frees memory."""
    value = line.value if isinstance(line, ast.Assign) else line
    return isinstance(value, ast.Constant) and value.value is None


def _as_fx_writes(target: str) -> str:
    """``ops.0`` -> ``getattr(self.ops, '0')``."""
    text = "self"
    for part in target.split("."):
        text = f"{text}.{part}" if part.isidentifier() else f"getattr({text}, '{part}')"
    return text


def _path(module: nn.Module, target: str, sequence: bool) -> str:
    """``ops.0`` -> ``self.ops[0]``. sequence: whether the module itself is one."""
    text, here, indexed = "self", module, sequence
    for part in target.split("."):
        if isinstance(here, nn.ModuleDict) and here is not module:
            text += f'["{part}"]'
        elif indexed and part.isdecimal():
            text += f"[{part}]"
        else:
            text += f".{part}" if part.isidentifier() else f'._modules["{part}"]'
        here = here.get_submodule(part)
        indexed = isinstance(here, nn.ModuleList | nn.Sequential)
    return text
