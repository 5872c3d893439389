"""How local the spaces with a table are: LISSNAS's Figure 2 and Table 8.

    python benchmarks/locality.py [--out benchmarks/results/locality.json]

Per problem the random walk autocorrelation (RWA) of the report metric and the mean absolute
difference of an arch and a neighbor (AAD), by the number of edits, on as many walks as `nasplug
locality` takes. Prints a table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import nasplug
from nasplug.analysis.locality import farthest, measure
from nasplug.analysis.quality import reports

QUERIES = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = {}
    print("| problem | correlation length | RWA by edits | AAD by edits |")
    print("| --- | --- | --- | --- |")
    for row in nasplug.problems():
        if "table" not in row["evaluators"]:
            continue
        target = nasplug.problem(row["problem"])
        walks = QUERIES // (2 * farthest(target.space) + 1)
        try:
            local = measure(target.space, reports(target), walks, seed=0)
        except nasplug.NasplugError as error:  # graph/proteins knows one arch in twelve
            print(f"| {target.name} | {error} | | |", flush=True)
            continue
        found[target.name] = {
            "walks": walks, "suggested": local.suggested, "third": local.third,
            **{name: np.round(getattr(local, name), 5).tolist()
               for name in ("rwa", "rwa_error", "aad", "aad_error")},
        }  # fmt: skip
        rwa, aad = (" ".join(f"{x:.3g}" for x in found[target.name][n]) for n in ("rwa", "aad"))
        print(f"| {target.name} | {local.suggested} | {rwa} | {aad} |", flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
