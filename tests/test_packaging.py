"""Wheels of the kernel and of every plugin, each plugin in an environment of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))

pytestmark = pytest.mark.skipif(not shutil.which("uv"), reason="needs uv")

OWN_METHOD = """
import sys, time
start = time.perf_counter()
import nasplug
print(f"import nasplug: {time.perf_counter() - start:.3f} s")
heavy = {"click", "rich", "torch", "pandas", "mlflow", "pyarrow"} & set(sys.modules)
assert not heavy, heavy

class Mine(nasplug.Method):
    batch = nasplug.Int(2, low=1)

    @nasplug.hookimpl
    def propose(self, search, subspace):
        return subspace.sample(self.batch, search.rng)

space = nasplug.Space({"width": [16, 32, 64], "depth": [1, 2, 3]})
result = nasplug.search(
    Mine(batch=3), space=space, evaluate=lambda arch: arch["width"] * arch["depth"],
    budget=9, tracking=False,
)
assert result.best.value == 192, result.best
"""


COMMANDS = """
import json, sys
from nasplug.cli import main
for line in json.loads(sys.argv[1]):
    try:
        main(line)
    except SystemExit as end:
        if end.code:
            raise
"""


def uv(*arguments: object, **options: Any) -> None:
    command = ["uv", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stderr}"


def build(source: Path, out: Path) -> Path:
    """The wheel of a distribution, built from a copy, so that nothing old gets into it."""
    copy = out / f"{source.name}-source"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md"):
        if (source / name).exists():
            shutil.copy(source / name, copy)
    for name in ("nasplug", "src"):
        if (source / name).exists():
            ignore = shutil.ignore_patterns("*.egg-info", "__pycache__")
            shutil.copytree(source / name, copy / name, ignore=ignore)
    uv("build", "--quiet", "--wheel", "--out-dir", copy / "dist", copy)
    return next((copy / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("kernel"))


def environment(folder: Path) -> Path:
    """A fresh virtual environment; returns its python."""
    uv("venv", "--quiet", "--clear", "--python", sys.executable, folder / "venv")
    return folder / "venv" / "bin" / "python"


def clean(**extra: str) -> dict[str, str]:
    """Our environment variables, without what would let our packages shine through."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ours.pop("VIRTUAL_ENV", None)
    return {**ours, **extra}


def test_a_search_needs_numpy_pluggy_and_filelock_only(kernel: Path, tmp_path: Path) -> None:
    """The kernel alone needs no filelock either: see test_layers.py."""
    python = environment(tmp_path)
    uv("pip", "install", "--quiet", "--python", python, "numpy", "pluggy", "filelock")
    uv("pip", "install", "--quiet", "--python", python, "--no-deps", kernel)
    done = subprocess.run(
        [python, "-c", OWN_METHOD], capture_output=True, text=True, check=False, cwd=tmp_path,
        env=clean(),
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each environment is made anew: what Python has compiled of torch is found again."""
    return tmp_path_factory.mktemp("place")


ALIKE = ("autospace", "ddsas", "lissnas", "oneshot", "ostr", "shrinkers")  # they need what dsm does


@pytest.mark.parametrize(
    "plugin",
    [
        pytest.param(
            path, id=path.name, marks=pytest.mark.slow if path.name.endswith(ALIKE) else ()
        )
        for path in PLUGINS
    ],
)
def test_each_plugin_works_next_to_the_kernel(
    plugin: Path, kernel: Path, place: Path, tmp_path: Path, nb201_table: Path
) -> None:
    python = environment(place)
    kernel_and = f"nasplug[tables] @ {kernel.as_uri()}", build(plugin, tmp_path)
    uv("pip", "install", "--quiet", "--python", python, *kernel_and)

    def nasplug(*lines: Sequence[str]) -> list[Any]:
        """What commands answer, one after the other in one process: torch is imported once."""
        done = subprocess.run(
            [python, "-c", COMMANDS, json.dumps([[*line, "--json"] for line in lines])],
            capture_output=True, text=True, check=False, cwd=tmp_path,
            env=clean(NASPLUG_DATA=str(nb201_table), PYTHONPYCACHEPREFIX=str(place / "compiled")),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    found, methods = nasplug(["plugins"], ["list", "methods"])
    assert not [one["error"] for one in found if one["error"]]
    assert sum(not one["name"].startswith("nasplug.") for one in found) == 1
    if plugin.name in ("nasplug-proxies", "nasplug-dask", "nasplug-ray"):  # which bring no method
        return
    assert methods
    runs = []
    for about in nasplug(*(["show", row["name"]] for row in methods)):
        declared = {one["name"] for one in about["hyperparameters"]}
        epochs = "epochs" in declared  # it trains a supernet on data, which a table has not
        task = [about["problem"], "--budget", "1", "--set", "epochs=1"] if epochs else [
            "nb201/toy", "--budget", "60"
        ]  # fmt: skip
        if "warmup" in declared:
            task += ["--set", "warmup=0"]
        name = about["name"]
        if "eta" in declared:  # it needs a fidelity, which a table has not
            continue
        runs.append(["run", name, "--on", *task, "--out", name, "--no-track"])
    *searches, doctor = nasplug(*runs, ["doctor", "nb201/toy"])
    for said in searches:
        assert said["trials"] >= 1
        assert said["failed"] == 0
        assert said["best"]["arch"]
    assert doctor["ok"]


def test_all_is_every_extra_but_the_methods_and_aeon() -> None:
    """A new one was missing, so that its tests were skipped and its page did not run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    reached, left = set(), ["all"]
    while left:
        extra = left.pop()
        reached.add(extra)
        named = re.findall(r"nasplug\[([\w,]+)\]", " ".join(extras[extra]))
        left += {one for names in named for one in names.split(",")} - reached
    assert set(extras) - reached == {"methods", "series"}


def test_ci_calls_the_readmes_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    readme = (ROOT / "README.md").read_text().splitlines()
    commands = [line for line in readme if line.endswith("tox run -e tests")]
    assert len(commands) == 1
    assert script.endswith(f"\n{commands[0]}\n")


@pytest.mark.parametrize("folder", [ROOT, *PLUGINS], ids=lambda path: path.name)
def test_what_a_distribution_says_of_itself(folder: Path) -> None:
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    assert project["description"]
    assert (folder / project["readme"]).exists()
    if folder != ROOT:
        assert any(re.match(r"nasplug\b(?!-)", need) for need in project["dependencies"])
        assert project["entry-points"]["nasplug"]
