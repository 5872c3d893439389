"""DSM-NAS on the mobile space through a predictor, after 10,000 queries, beside other methods.

    NASPLUG_DATA=... python benchmarks/mobile_table.py [--seeds 10] [--runs runs/mobile]

What is scored is real: a supernet of `mobilenet` is trained by uniform paths on CIFAR-10, its
images shrunk to 8x8 so that one core is enough; a random search scores 1,000 archs with inherited
weights, batch norms recalibrated, on 400 validation images; the perceptron of the paper learns nine
tenths of these pairs, and its rank correlation on the others is in the result. The reward of all
searches is its prediction (a normal score: 0 is the median of the pairs, 1 better than 84 % of
them). The multiply-adds are limited where 600M are in the space of the paper: at the same quantile
of the archs. The best arch of each search is then scored by the supernet on the validation and on
the test images; nothing is chosen by the latter.

Cases: DSM-NAS at the paper's settings (K=10, M=3, lr 3e-4, entropy 1e-3), four samples per update;
DSM-NAS+, which begins with the ten best of the pairs within the limit; three others; and after
2,000 queries other K and M (the paper's Figure 9) and the switches of Figure 8. Compared are the
same seeds, by Wilcoxon's test with Holm's correction. What was interrupted goes on: runs from their
directories, the table from RESULT, which has every search as soon as it is done. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before numpy is imported

import numpy as np
import torch
from torch.nn import functional

import nasplug
from nasplug.comparison.statistics import holm, interval, paired
from nasplug.kernel.registry import registry
from nasplug.nn import Images, load
from nasplug.run.api import make_search
from nasplug.run.init import Init

RESULT = Path(__file__).parent / "results" / "mobile.json"
SPACE = "mobilenet:width=0.15"
SIDE, EPOCHS, BATCH, PAIRS, IMAGES = 8, 4, 128, 1000, 400
QUERIES = (1000, 2000, 5000, 10_000)
SHORT = 2000  # queries of the ablations
DSM: dict[str, Any] = {
    "K": 10, "M": 3, "lr": 3e-4, "entropy": 1e-3, "samples": 4, "parallel": 4,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dsm": ("dsm", DSM),
    "dsm+": ("dsm", DSM),
    "regularized-evolution": ("regularized-evolution", {}),
    "local-search": ("local-search", {}),
    "random": ("random", {}),
}
ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"dsm K={K}": ("dsm", {**DSM, "K": K}) for K in (1, 5, 20)},
    **{f"dsm M={M}": ("dsm", {**DSM, "M": M}) for M in (1, 5, 10, 20)},
    "dsm absolute reward": ("dsm", {**DSM, "absolute": True}),
    "dsm without subspace graph": ("dsm", {**DSM, "graph": False}),
}


def shrunk() -> Images:
    """CIFAR-10 in images of 8x8, halved twice."""
    images = load("cifar10")

    def smaller(part: Any) -> Any:
        pixels = part[0]
        while pixels.shape[-1] > SIDE:
            pixels = functional.avg_pool2d(pixels.float(), 2).round()
        return pixels.to(torch.uint8), part[1]

    parts = {part: smaller(getattr(images, part)) for part in ("train", "val", "test")}
    return replace(images, **parts, padding=1)


def gone_on_with(folder: Path, method: str, data: Images, **options: Any) -> None:
    """A run that ends up in the folder, whatever there was of it before."""
    if (folder / "run.json").exists():
        nasplug.resume(folder, data=data)
    else:
        nasplug.search(
            method, space=nasplug.space(SPACE), data=data, tracking=False, out=folder, **options
        )


def earlier(folder: Path) -> nasplug.Problem:
    """Train the supernet, and score archs by it; returns what scores by it."""
    images = shrunk()
    gone_on_with(
        folder / "supernet", "spos", images, epochs=EPOCHS, batch=BATCH, population=2, budget=2
    )
    evaluator = f"supernet:{folder / 'supernet'},images={IMAGES}"
    gone_on_with(folder / "pairs", "random", images, evaluator=evaluator, budget=PAIRS)
    return nasplug.Problem.of(space=nasplug.space(SPACE), data=images, evaluator=evaluator)


def limit_of(space: nasplug.Space) -> tuple[float, float]:
    """The multiply-adds that are to this space what 600M are to the paper's; and their quantile."""
    paper = nasplug.space("mobilenet")
    share = float((paper.flops(paper.sample(100_000, 0)) <= 600e6).mean())
    return float(np.quantile(space.flops(space.sample(100_000, 0)), share)), share


def searched(
    problem: nasplug.Problem, case: str, limit: float, first: nasplug.Archs, seed: int
) -> tuple[dict[str, Any], nasplug.Archs]:
    """One search: the best reward after so many queries, and the arch that has it."""
    method, options = {**CASES, **ABLATIONS}[case]
    budgets = [n for n in QUERIES if case in CASES or n <= SHORT]
    start = time.process_time()
    search = make_search(
        problem, registry().get("method", method)(**options), method, budget=budgets[-1], seed=seed,
        constraints=[f"flops<={limit}"], init=Init(first) if case == "dsm+" else None,
    )  # fmt: skip
    best = search.run().best
    scores, flops = search.trials.scores, problem.space.flops(search.trials.archs)
    row = {
        "reward": {str(n): float(scores[:n].max()) for n in budgets},
        "queries": len(search.trials),
        "flops": float(problem.space.flops(best.arch[None])[0]),
        "queries_above_limit": int((flops > limit).sum()),
        "seconds": time.process_time() - start,
        "arch": str(best),
    }
    return row, best.arch


def table(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Each case with its mean, and by how much dsm is better on the same seeds."""
    rows: dict[str, Any] = {}
    for case, found in runs.items():
        queries = str(QUERIES[-1] if case in CASES else SHORT)
        rewards = np.array([row["reward"][queries] for row in found.values()])
        rows[case] = {
            "queries": int(queries), "seeds": len(found), "reward": float(rewards.mean()),
            "interval": [float(x) for x in interval(rewards)],
            "ms_per_query": float(np.median([r["seconds"] / r["queries"] for r in found.values()]))
            * 1e3,
            "largest_flops": max(row["flops"] for row in found.values()),
        }  # fmt: skip
        for name in ("supernet_acc", "test_acc"):
            if all(name in row for row in found.values()):
                rows[case][name] = float(np.mean([row[name] for row in found.values()]))
        seeds = [seed for seed in found if seed in runs["dsm"]]
        if case != "dsm" and seeds:
            gains = [runs["dsm"][s]["reward"][queries] - found[s]["reward"][queries] for s in seeds]
            rows[case]["dsm_better_by"] = paired(np.array(gains))
    for family in (CASES, ABLATIONS):
        others = [case for case in family if "dsm_better_by" in rows.get(case, {})]
        corrected = holm(np.array([rows[case]["dsm_better_by"]["p"] for case in others]))
        for case, p in zip(others, corrected, strict=True):
            rows[case]["dsm_better_by"]["p_holm"] = float(p)
    return rows


def show(rows: dict[str, Any]) -> None:
    print(f"{'':28} queries  seeds  reward  95 % of mean    val   test   ms  dsm better by (p)")
    for case, row in rows.items():
        low, high = row["interval"]
        line = f"{case:28} {row['queries']:7} {row['seeds']:6} {row['reward']:7.3f}"
        line += f"  {low:5.3f}–{high:5.3f}"
        line += f" {row.get('supernet_acc', np.nan):6.2f} {row.get('test_acc', np.nan):6.2f}"
        line += f" {row['ms_per_query']:4.1f}"
        if better := row.get("dsm_better_by"):
            line += f"  {better['gain']:+.3f} ({better['p_holm']:.3g})"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--ablation-seeds", type=int, default=10)
    parser.add_argument("--runs", type=Path, default=Path("runs/mobile"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"runs": {}}
    supernet = earlier(arguments.runs)
    space = supernet.space
    evaluator = f"predictor:{arguments.runs / 'pairs'},model=dropout-mlp"
    problem = nasplug.problem(f"{space.name}/data", evaluator)
    limit, quantile = limit_of(space)
    pairs = nasplug.load(arguments.runs / "pairs", space=space).search.trials
    good = np.flatnonzero(space.flops(pairs.archs) <= limit)
    first = pairs.archs[good[np.argsort(-pairs.values[good], kind="stable")[: DSM["K"]]]]
    result["about"] = {
        "space": space.name, "epochs": EPOCHS, "pairs": len(pairs), "images": IMAGES,
        "supernet_acc": [float(x) for x in np.quantile(pairs.values, [0, 0.25, 0.5, 0.75, 1])],
        "held_out": problem.evaluator.held_out, "limit": limit, "quantile": quantile,
        "best_pair": float(problem.score(first).values.max()),
    }  # fmt: skip
    print(json.dumps(result["about"]), flush=True)
    for cases, seeds in ((CASES, arguments.seeds), (ABLATIONS, arguments.ablation_seeds)):
        for seed in map(str, range(seeds)):
            for case in cases:
                found = result["runs"].setdefault(case, {})
                if seed in found:
                    continue
                row, arch = searched(problem, case, limit, first, int(seed))
                if cases is CASES:
                    scored = supernet.score(arch[None])
                    row["supernet_acc"], row["test_acc"] = (
                        float(column[0]) for column in (scored.values, scored.reports)
                    )
                found[seed] = row
                RESULT.write_text(json.dumps(result, indent=1) + "\n")
                print(seed, case, row, flush=True)
    result["table"] = table(result["runs"])
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    show(result["table"])
    print(json.dumps(result["table"]))


if __name__ == "__main__":
    main()
