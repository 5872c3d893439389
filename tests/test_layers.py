"""The kernel is a room: small, and in need of numpy and pluggy alone. (The layers themselves are
contracts of import-linter in pyproject.toml.)"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nasplug
from nasplug.kernel.registry import first_line, registry

ROOT = Path(nasplug.__file__).parent
LARGEST = 1700  # lines of code in kernel/

ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        allowed = {"numpy", "pluggy", "nasplug"} | set(sys.stdlib_module_names)
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
import nasplug
space = nasplug.Space({"width": [16, 32, 64], "depth": [1, 2, 3]})

class Mine(nasplug.Method):
    @nasplug.hookimpl
    def propose(self, search, subspace):
        return subspace.sample(3, search.rng)

problem = nasplug.Problem.of(space=space, evaluate=lambda arch: arch["width"] * arch["depth"])
print(nasplug.Search(problem, Mine(), budget=9).run().best.value)
"""


def code_lines(file: Path) -> int:
    """Lines that are neither blank, comment nor docstring."""
    text = file.read_text()
    lines = {i for i, line in enumerate(text.splitlines(), 1) if line.strip()}
    lines -= {i for i, line in enumerate(text.splitlines(), 1) if line.strip().startswith("#")}
    for node in ast.walk(ast.parse(text)):
        text = node.value if isinstance(node, ast.Expr) else None
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def test_the_kernel_is_small():
    found = {file.name: code_lines(file) for file in (ROOT / "kernel").glob("*.py")}
    assert sum(found.values()) <= LARGEST, found


def test_the_kernel_searches_with_numpy_and_pluggy_alone():
    answer = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
    assert answer.stdout.strip() == "192.0", answer.stderr


def test_a_module_is_not_shadowed_by_a_function():
    with pytest.raises(ModuleNotFoundError):
        __import__("nasplug.search")


def test_what_is_registered_loads_and_says_what_it_is():
    """The line that lists show is the first of the docstring, and everything loads."""
    found = registry()
    assert not [plugin for plugin in found.plugins if plugin.error]
    for name, entry in found.methods.items():
        assert entry.doc == first_line(found.get("method", name)), name
    for kind in ("spaces", "evaluators", "trackers", "executors"):
        for name, entry in getattr(found, kind).items():
            assert entry.doc, name
            assert callable(found.get(kind[:-1], name))


DOORS = ["nasplug", "nasplug.nn", "nasplug.spaces", "nasplug.analysis", "nasplug.testing"]


@pytest.mark.parametrize("door", DOORS)
def test_every_name_of_a_door_is_there(door):
    module = __import__(door, fromlist=["x"])
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert module.__doc__


@pytest.mark.parametrize("door", DOORS)
def test_every_name_of_a_door_is_on_its_page(door):
    module = __import__(door, fromlist=["x"])
    text = (ROOT.parent / "docs" / f"{door.rpartition('.')[2]}.md").read_text()
    assert not [name for name in module.__all__ if f"`{name}" not in text]
