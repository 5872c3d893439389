"""A small part of the campaign of faults, and the promises of the documentation."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROMISES = ROOT / "docs" / "promises.md"


def test_a_few_kills_lose_no_trial():
    for package in ("nasplug_baselines", "psutil", "pyarrow", "sklearn", "xgboost"):
        pytest.importorskip(package)
    words = ("--kind", "kills", "--method", "regularized-evolution", "--method", "reinforce")
    answer = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "faults.py", *words, "--enough", "4",
         "--minutes", "0.2"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    [counts] = json.loads(answer.stdout.splitlines()[-1]).values()
    assert counts["tried"] == counts["held"] > 0


def test_every_promise_names_a_test_that_exists():
    named = re.findall(r"\[\w+\]\(\.\./(\S+?\.py) \"(\w+)\"\)", PROMISES.read_text())
    assert len(named) > 20
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / file).exists() or f"\ndef {test}(" not in (ROOT / file).read_text()
    ]
    assert not missing
