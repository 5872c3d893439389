"""A small part of the campaign of benchmarks/faults.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "faults.py"


def test_a_few_kills_lose_no_trial():
    for package in ("nasplug_baselines", "psutil", "pyarrow", "sklearn", "xgboost"):
        pytest.importorskip(package)
    methods = ("--method", "regularized-evolution", "--method", "reinforce")
    limits = ("--kind", "kills", "--enough", "4", "--minutes", "0.2")
    answer = subprocess.run(
        [sys.executable, SCRIPT, *methods, *limits], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    counts = json.loads(answer.stdout.splitlines()[-1])["kills"]
    assert counts["tried"] == counts["held"] > 0
