"""Writes docs/plugins.md, the directory of known plugins, from `nasplug check` of each method.

    python docs/plugins.py

What is installed is what is listed. The row of numbers is of nb201/cifar10 (test accuracy after 200
epochs of the selected cell, 200 queries), for methods that score archs; those that train a supernet
are measured in benchmarks/results.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import nasplug
from nasplug.kernel.registry import first_line, plug, plugin_manager, registry
from nasplug.testing import method_checks, results

PROBLEM, BUDGET, SEEDS = "nb201/cifar10", 200, 10
HEAD = """# Known plugins

Made by `python docs/plugins.py` from what `nasplug check` says of each installed method, with
nasplug {version}. Checks are those that passed, of those that apply ([what they are](testing.md));
the numbers are the test accuracy of the selected cell on {problem}, {budget} queries,
{seeds} seeds, mean and standard deviation.

| method | what it does | hooks | distribution | checks | {problem} |
| --- | --- | --- | --- | --- | --- |
"""


def hooks(method: object) -> str:
    manager = plugin_manager()
    plug(manager, method)
    return ", ".join(f"`{caller.name}`" for caller in manager.get_hookcallers(method) or ())


def reached(name: str, method: object) -> str:
    """The row of numbers, or why there are none."""
    if hasattr(method, "evaluate"):
        return "[a supernet](../benchmarks/results/nb201_oneshot.md)"
    try:
        found = [
            nasplug.search(name, PROBLEM, budget=BUDGET, seed=seed, tracking=False).report
            for seed in range(SEEDS)
        ]
    except nasplug.NasplugError as error:
        return str(error).partition(",")[0]
    return f"{np.mean(found):.2f}±{np.std(found, ddof=1):.2f}"


def row(name: str) -> str:
    entry = registry().methods[name]
    method = registry().get("method", name)()
    states = [result.state for result in results(method_checks(name))]
    passed, apply = states.count("ok"), len(states) - states.count("not applicable")
    paper = getattr(method, "paper", "")
    cells = [
        f"`{name}`", f"{first_line(method).partition(': ')[2] or first_line(method)} {paper}",
        hooks(method), f"{entry.plugin.name} {entry.plugin.version}", f"{passed} of {apply}",
        reached(name, method),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    rows = []
    for name in sorted(registry().methods):
        rows.append(row(name))
        print(rows[-1], file=sys.stderr, flush=True)
    head = HEAD.format(version=nasplug.__version__, problem=PROBLEM, budget=BUDGET, seeds=SEEDS)
    Path(__file__).with_suffix(".md").write_text(head + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
