"""How long a comparison takes: 4 methods, 50 seeds, 200 queries on NAS-Bench-201, tracking on.

    NASPLUG_DATA=... python benchmarks/compare.py [--seeds 50] [--workers 2] [--on nb201/cifar10]

Twice: all of it, and again from what is kept. The share in which the cores were busy is CPU time of
this process and of all that it started, over the time times the workers. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

METHODS = ("dsm", "lissnas", "regularized-evolution", "random")


def timed(command: list[str], runs: Path) -> tuple[float, float, str]:
    """(seconds, CPU seconds of the command and its children, what it says)."""
    before, start = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, env={**os.environ, "NASPLUG_RUNS": str(runs)}, text=True, check=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    after, seconds = getrusage(RUSAGE_CHILDREN), time.perf_counter() - start
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--on", default="nb201/cifar10")
    given = parser.parse_args()
    command = [
        str(Path(sys.executable).with_name("nasplug")), "compare", *METHODS, "--on", given.on,
        "--budget", str(given.budget), "--seeds", str(given.seeds),
        "--workers", str(given.workers), "--json",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        seconds, cpu, _ = timed(command, Path(folder))
        again, _, said = timed(command, Path(folder))
    rows = json.loads(said)["summary"]
    found = {
        "searches": len(METHODS) * given.seeds, "seconds": round(seconds, 1),
        "busy": round(cpu / seconds / given.workers, 3), "again": round(again, 2),
        "mean": {row["method"]: round(row["mean"], 4) for row in rows},
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
